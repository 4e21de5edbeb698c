"""MMLU-Pro: questions with up to ten options, one of which is right (paper, section 5: case studies).

The dataset (TIGER-Lab/MMLU-Pro) has 12,032 test and 70 validation questions with the columns question, options, answer
(a letter), answer_index, category and src. Its 14 categories are biology, business, chemistry, computer science,
economics, engineering, health, history, law, math, other, philosophy, physics and psychology. The paper's two case
studies are finer than that: genetics is a part of biology (src stemez-Genetics), graph theory one of math (among those
of src theoremQA-Math).
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from asyncthink_jax.tasks import answer_text, row_sources
from asyncthink_jax.tasks.task import INF, FieldType, Record, Score, Task, one_part

LETTERS = string.ascii_uppercase[:10]
MAX_ANSWER_CHARACTERS = 2000  # a longer answer is wrong and not looked at


@dataclass(frozen=True)
class Problem:
    question: str
    options: tuple[str, ...]
    answer: str  # a letter: A is the first option
    category: str
    source: str  # which exam or textbook the dataset has it from

    @property
    def query(self) -> str:
        options = (f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False))
        return "\n".join([self.question, *options])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "options": list(self.options)}


@dataclass(frozen=True, kw_only=True)
class MMLUPro(Task[Problem]):
    """For evaluation. The benchmark has no training split: none is there, unless `train` names other such questions."""

    name: str = "mmlu_pro"
    # Each a file (.jsonl, .json, .csv, .parquet, also gs://..) or a dataset of the hub, owner/name[/subset][:split].
    train: str = ""
    validation: str = "TIGER-Lab/MMLU-Pro:validation"
    test: str = "TIGER-Lab/MMLU-Pro:test"
    categories: tuple[str, ...] = ()  # only questions of these; () = all
    src: tuple[str, ...] = ()  # only questions whose src begins with one of these; () = all
    validation_problems: int = 0  # size of the validation split; 0 = all there are
    test_problems: int = 0  # size of the test split; 0 = all there are

    fields: ClassVar[Mapping[str, FieldType]] = {
        "question": "text",
        "options": "texts",
        "answer": "text",
        "category": "text",
        "source": "text",
    }
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        **Task.ranges,
        "validation_problems": (0, INF),
        "test_problems": (0, INF),
    }

    def check(self) -> Iterator[tuple[bool, str]]:
        yield bool(self.validation and self.test), "task.validation and task.test must name a file or a dataset each"

    @property
    def files(self) -> Sequence[str]:
        return row_sources.files([source for source in (self.train, self.validation, self.test) if source])

    @property
    def instructions(self) -> str:
        return (
            "Task: a question comes with up to ten options, a letter before each, exactly one of which is right. The "
            "answer is its letter alone, like <ANSWER>C</ANSWER>. A sub-query is a part that can be thought about on "
            "its own: whether one or some of the options can be right, a value that must be computed, or a fact that "
            "the question rests on. It repeats all of the question that the worker has to know, and the options that "
            "it is about, and says what to return, like <FORK-1>Is this true: a tree with n vertices has n - 1 edges? "
            "Return yes or no, and why.</FORK-1>."
        )

    def records(self, skip_bad: bool = False) -> dict[str, list[Record]]:
        rng = np.random.default_rng(self.split_seed)
        sizes = {"train": 0, "validation": self.validation_problems, "test": self.test_problems}
        found: dict[str, list[Record]] = {}
        for split, size in sizes.items():
            source = getattr(self, split)
            problems = self._chosen(row_sources.read(source, _COLUMNS, _problem, skip_bad), source) if source else []
            problems = row_sources.sample(problems, size, rng, f"task.{split}_problems")
            found[split] = [problem.to_json() for problem in problems]
        return found

    def problems(self, record: Record) -> Sequence[Problem]:
        return [self.from_json(record)]

    def from_json(self, record: Record) -> Problem:
        return Problem(**{**record, "options": tuple(record["options"])})

    def score(self, problem: Problem, answer: str | None) -> Score:
        is_right = answer is not None and letter(answer, problem.options) == problem.answer
        return one_part(is_right, answer is not None)

    def merge(self, answers: Sequence[str | None]) -> str | None:
        """The majority's: answers count as equal that have the same letter, or the same text; of equals the first."""
        given = [answer for answer in answers if answer is not None and answer.strip()]
        votes = Counter(_vote(answer) for answer in given)
        return max(given, key=lambda answer: votes[_vote(answer)], default=None)

    def group(self, problem: Problem) -> str:
        return problem.category

    def _chosen(self, problems: list[Problem], source: str) -> list[Problem]:
        """Those of the categories and sources that are asked for. Raises ValueError if there is none of one of them."""
        for name in self.categories:
            names = {problem.category for problem in problems}
            if name not in names:
                raise ValueError(f"{source} has no category {name!r} (task.categories); it has {_listed(names)}")
        problems = [one for one in problems if not self.categories or one.category in self.categories]
        for name in self.src:
            names = {problem.source for problem in problems}
            if not any(there.startswith(name) for there in names):
                raise ValueError(f"{source} has no src that begins with {name!r} (task.src); it has {_listed(names)}")
        return [one for one in problems if not self.src or one.source.startswith(self.src)]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


_COLUMNS = {
    "question": row_sources.Column(["question"]),
    "options": row_sources.Column(["options", "choices"]),
    "answer": row_sources.Column(["answer"]),
    "answer_index": row_sources.Column(["answer_index"], is_needed=False),
    "category": row_sources.Column(["category"], is_needed=False),
    "src": row_sources.Column(["src"], is_needed=False),
}


def _problem(row: Mapping[str, Any]) -> Problem:
    """A row of the dataset. Raises ValueError for one that is none."""
    question, options = row_sources.text(row["question"], "question"), row["options"]
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise ValueError("the options are not a list of texts")
    while options and options[-1] == "N/A":  # some copies fill up to ten
        options = options[:-1]
    options = tuple(row_sources.text(option, "option") for option in options)
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options, must be 2 to {len(LETTERS)}")
    answer, letters = row_sources.plain(row["answer"], "answer"), LETTERS[: len(options)]
    if not isinstance(answer, str) or len(answer.strip()) != 1 or answer.strip() not in letters:
        raise ValueError(f"the answer is {answer!r}, must be a letter from A to {letters[-1]}")
    index = row["answer_index"]
    if index is not None and index != letters.index(answer.strip()):
        raise ValueError(f"the answer is {answer!r}, but answer_index is {index!r}")
    return Problem(question, options, answer.strip(), str(row["category"] or ""), str(row["src"] or ""))


# ------------------------------------------------------------------------------------------------------------ answers

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_ALONE = re.compile(r"(?:[-*]\s+|(?:so|thus|hence|therefore),?\s+)?[(\[{]?([A-J])[)\]}]?", re.IGNORECASE)
_LABEL = re.compile(r"[(\[]?([A-Ja-j])(?:[)\].:]+|(?<=[A-J])\s*=|(?<=[A-J]))\s+")
_WITH_OPTION = re.compile(
    r"\(?([A-J])(?:\)[.:]?|[.:]|,?(?=\s*\n|\s+(?:because|since)\b)|(\s-|(?=\s+\()))\s+(\S.*)", re.DOTALL
)
# "is a" names no letter, but "(a)" does, and so does "is a" at the end.
_NAMED = re.compile(
    r"\b(?:(?i:answers?|ans\.?|options?|choices?)"
    r"(?i: is| are| (?:should|must|would) be| ?[=-]|:)*|(?i:choose|pick|select))\s*"
    r"(?:[:\[]*\(([A-Ja-j])\)|[:(\[]*([A-J])\b(?!(?<=I) (?:think|believe|guess|would|am|do|don|can)\b)|([a-j])\Z)"
)
# A sentence that says of one option that it is right.
_CALLED_RIGHT = re.compile(
    r"(?<![^\n.!]) *(?:(?:[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore),? )?(?:[Oo]nly )?"
    r"[(\[]*([A-J])[)\]]* is (?:the )?(?:(?:only|most) )?"
    r"(?:(?:correct|right|best)(?: (?:answer|option|choice))?|answer) *(?=[.!\n]|\Z)"
)
# Another letter beside a first one: "A or B", "C, D"; not "C, I think", "C, a tree", "A and C is wrong".
_LETTER = r"(?:\(([A-Ja-j])\)|[(\[]*([A-J])\b)(?!\s+(?:is|isn't|was)\b)"
_BESIDE = re.compile(
    r"[)\].:]*\s*(?:"
    rf"(?:,\s*)?(?:/|&|\bor\b|\band\b)\s*(?!I(?:\s+[a-z]|['\u2019])){_LETTER}"
    rf"|,\s*(?![AI](?:\s+[a-z]|['\u2019])){_LETTER})"
)
# Another option, as a whole: at the start of a line, or behind "or", "and".
_ANOTHER = re.compile(r"(?:^|\b(?:or|and))\s*(?:\(([A-J])\)|([A-J])[.):])\s", re.MULTILINE)


def letter(answer: str, options: Sequence[str] = ()) -> str | None:
    """The letter that an answer names: alone, before its option's text, as "the answer is C", or by that text alone.

    None if there is none, or more than one: "A or B" is no answer. An answer is read in time linear in its length, of
    which there is a most.
    """
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return None
    text = _read(answer)
    alone = answer_text.without_prefix(text)
    if match := _ALONE.fullmatch(alone.rstrip("!")):
        return match[1].upper()
    texts = {_plain(text), _plain(alone)}
    same = [name for name, option in zip(LETTERS, options, strict=False) if _plain(_read(option)) in texts]
    if match := _LABEL.match(alone):  # "c) a path", "C a path"
        place = LETTERS.index(match[1].upper())
        if place < len(options) and _plain(alone[match.end() :]) == _plain(_read(options[place])):
            same = [LETTERS[place]]
    if len(same) == 1:
        return same[0]
    named = set()
    for match in _NAMED.finditer(text):
        group = next(group for group in (1, 2, 3) if match[group])
        named |= {match[group].upper(), *_beside(text, match.end(group))}
    named |= set(_CALLED_RIGHT.findall(text))
    if match := _WITH_OPTION.fullmatch(text):
        first, dash, rest = match.groups()
        option = _read(options[LETTERS.index(first)]) if first in LETTERS[: len(options)] else ""
        if _plain(option) in (_plain(rest), _plain(rest.strip("()"))):  # whatever letters stand in it
            return first
        if dash is None:
            named |= {first, *_beside(text, match.end(1))}
            named |= {one or other for one, other in _ANOTHER.findall(rest)}
            named |= {line.upper() for line in rest.splitlines() if line.upper() in tuple(LETTERS)}
    return named.pop() if len(named) == 1 else None


def _read(text: str) -> str:
    """`text` without its dress, see `answer_text.py`, and without `\\text{..}` and signs of formulas within it."""
    text = answer_text.clean(text, prefix=True)
    for _ in range(3):  # nested
        text = _TEXT.sub(r"\1", text)
    return text.replace("$", "").strip()


def _beside(text: str, end: int) -> Iterator[str]:
    """The letters in a list that goes on at `end`."""
    while match := _BESIDE.match(text, end):
        yield next(filter(None, match.groups())).upper()
        end = match.end()


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().removesuffix(".")


def _vote(answer: str) -> str:
    return letter(answer) or _plain(answer[:MAX_ANSWER_CHARACTERS])
