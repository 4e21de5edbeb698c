"""Problems of mathematics with one answer each (paper, section 5: DeepScaleR for training, AIME-24 and AMC-23).

They are read from files or from the hub (`row_sources.py`); answers are compared by math-verify (`math_answers.py`).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

import numpy as np

from asyncthink_jax.shown import complain
from asyncthink_jax.tasks import math_answers, math_grader, row_sources
from asyncthink_jax.tasks.task import INF, FieldType, Record, Score, Task, one_part

# In the files that are known; the first that is there counts.
QUESTIONS = ("problem", "question", "prompt")
ANSWERS = ("answer", "final_answer", "expected_answer", "ground_truth", "reward_model.ground_truth")


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str  # as `math_answers.final` has it
    source: str  # which dataset it is of

    @property
    def query(self) -> str:
        return self.question

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Math(Task[Problem]):
    """No question of the training split is one of the others'; of repeated ones the first stays."""

    name: str = "math"
    # Each a file (.jsonl, .json, .csv, .parquet, also gs://..) or a dataset of the hub, owner/name[/subset][:split].
    train: str = "agentica-org/DeepScaleR-Preview-Dataset"
    validation: str = ""  # "" = held out of the training problems
    test: tuple[str, ...] = ("HuggingFaceH4/aime_2024", "math-ai/amc23:test")
    # The columns of question and answer; "" = found by their usual names. A dot leads into a nested one.
    question: str = ""
    answer: str = ""
    test_problems: int = 0  # size of the test split; 0 = all there are
    max_question: int = 2000  # characters; a longer training question is left out, since its prompt may not fit

    fields: ClassVar[Mapping[str, FieldType]] = {"question": "text", "answer": "text", "source": "text"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        **Task.ranges,
        "test_problems": (0, INF),
        "max_question": (1, INF),
    }

    def check(self) -> Iterator[tuple[bool, str]]:
        yield bool(self.train and self.test), "task.train and task.test must name at least a file or a dataset each"

    @property
    def files(self) -> Sequence[str]:
        return row_sources.files(self._sources)

    @property
    def _sources(self) -> Sequence[str]:
        return [source for source in (self.train, self.validation, *self.test) if source]

    @property
    def instructions(self) -> str:
        return (
            "Task: a question is a problem of mathematics with one answer. The answer is the result alone, a plain "
            r"number or LaTeX, without a sentence around it, like <ANSWER>27</ANSWER> or <ANSWER>\frac{3}{4}</ANSWER>. "
            "A sub-query is a part that can be worked out on its own: one of several cases, a count, a value that the "
            "rest needs, or the whole by another method, as a check. It repeats all that the worker has to know, with "
            "every number and definition, and says what to return, like <FORK-1>How many integers from 1 to 1000 are "
            "divisible by 6 or by 10? Return the number.</FORK-1>."
        )

    def records(self, skip_bad: bool = False) -> dict[str, list[Record]]:
        if not math_grader.is_installed():
            raise ValueError("answers are graded by math-verify: pip install 'asyncthink_jax[math]'")
        rng = np.random.default_rng(self.split_seed)
        test = [problem for source in self.test for problem in self._read(source, skip_bad)]
        test = row_sources.sample(test, self.test_problems, rng, "task.test_problems")
        apart = {_key(problem) for problem in test}
        train = self._read(self.train, skip_bad)
        n_read = len(train)
        train = list({_key(problem): problem for problem in reversed(train) if self._is_short(problem)}.values())[::-1]
        train = [problem for problem in train if _key(problem) not in apart]
        if self.validation:
            validation = row_sources.sample(
                self._read(self.validation, skip_bad), self.validation_problems, rng, "task.validation_problems"
            )
        else:
            validation = row_sources.sample(train, self.validation_problems, rng, "task.validation_problems")
        apart = {_key(problem) for problem in validation}
        train = [problem for problem in train if _key(problem) not in apart]
        if not train:
            raise ValueError(f"{self.train}: no training problem is left beside those of validation and test")
        left_out = n_read - len(train) - (0 if self.validation else len(validation))
        if left_out:
            why = f"repeated, also in validation or test, or of more than {self.max_question} characters"
            complain(f"{self.train}: {left_out} of {n_read} training problems left out: {why}")
        return {
            name: [problem.to_json() for problem in problems]
            for name, problems in (("train", train), ("validation", validation), ("test", test))
        }

    def problems(self, record: Record) -> Sequence[Problem]:
        return [self.from_json(record)]

    def from_json(self, record: Record) -> Problem:
        return Problem(record["question"], record["answer"], record["source"])

    def score(self, problem: Problem, answer: str | None) -> Score:
        text = None if answer is None else math_answers.final(answer)
        gold = math_answers.final(problem.answer) or problem.answer  # what is stored may be older than our spelling
        is_right = text is not None and bool(math_answers.equal([(gold, text)])[0])
        return one_part(is_right, answer is not None)

    def merge(self, answers: Sequence[str | None]) -> str | None:
        """The majority's; of equal ones the first. Answers are equal that are so when they are scored."""
        return math_answers.majority([answer for answer in answers if answer is not None])

    def group(self, problem: Problem) -> str:
        return problem.source

    def _read(self, source: str, skip_bad: bool) -> list[Problem]:
        columns = {
            "question": row_sources.Column(QUESTIONS, self.question, "task.question"),
            "answer": row_sources.Column(ANSWERS, self.answer, "task.answer"),
        }
        return row_sources.read(source, columns, partial(_problem, row_sources.labels(self._sources)[source]), skip_bad)

    def _is_short(self, problem: Problem) -> bool:
        return len(problem.question) <= self.max_question


def _problem(label: str, row: Mapping[str, Any]) -> Problem:
    return Problem(row_sources.text(row["question"], "question"), _gold(row["answer"]), label)


def _gold(value: Any) -> str:
    """The answer of a row, a text or a number: 27.0 is 27, and 6.02e23 what stands there, not the float next to it."""
    value = row_sources.plain(value, "answer")
    if isinstance(value, float | Decimal) and math.isfinite(value):
        digits = str(value)
        value = str(int(Decimal(digits))) if value == int(value) else digits
    elif isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = math_answers.final(_alone(row_sources.text(value, "answer")))
    if not text:
        raise ValueError(f"the answer has to be at most {math_answers.MAX_CHARACTERS} characters, and not empty")
    return text


_PRINTED = re.compile(r"""\[\s*(['"])(.+)\1\s*\]""", re.DOTALL)


def _alone(text: str) -> str:
    """A text out of a list that a program has printed. Raises ValueError for a list of several."""
    if (match := _PRINTED.fullmatch(text)) is None:
        return text
    quote, inner = match.groups()
    if quote in inner:
        raise ValueError("the answer is a list of several, must be one")
    single = inner.replace(r"\\", "\\")
    return single if "\\" not in inner.replace(r"\\", "") else inner


def _key(problem: Problem) -> str:
    """Equal for questions that differ in space and case alone."""
    return " ".join(problem.question.split()).casefold()
