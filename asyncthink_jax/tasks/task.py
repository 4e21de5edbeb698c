"""What a task is: problems, a prompt, scoring, and demonstrations where a program can make them.

A task is a frozen dataclass. Its fields are its part of the config (`config.task`, `--config.task.test_problems=400`),
its methods all that the rest of the project knows of it. To write a new one, see CONTRIBUTING.md.

A field decides about the problems, unless it is declared by `shown(default)`: then it is of the demonstrations alone,
and what is stored of the problems stays as it is when the field changes.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, Protocol, TypedDict, TypeVar

import numpy as np

Kind = Literal["random", "oracle", "sequential"]
FieldType = Literal["int", "ints", "text", "texts"]
Record = Mapping[str, Any]
INF = float("inf")
Splits = Mapping[str, Sequence[Any]]


class Problem(Protocol):
    """Anything with a text to ask and a form for files."""

    @property
    def query(self) -> str:
        """What the organizer is asked, as it stands in its prompt."""

    def to_json(self) -> dict[str, Any]:
        """Its fields, as `episodes.jsonl` has them; `Task.from_json` is the inverse."""


class Score(TypedDict):
    """What a scorer says of an answer.

    accuracy: R_A of the paper, in 0..1. correct: right and distinct parts of the answer. answered: its parts.
    wrong: those of them that are not right, or repeat another one.
    """

    accuracy: float
    correct: int
    answered: int
    wrong: int


def one_part(is_right: bool, is_answered: bool = True) -> Score:
    """The score where an answer is right or wrong as a whole."""
    return Score(
        accuracy=float(is_right),
        correct=int(is_right),
        answered=int(is_answered),
        wrong=int(is_answered and not is_right),
    )


@dataclasses.dataclass(frozen=True)
class Script:
    """A demonstration as text: what the roles write, without what a Join inserts.

    `organizer` is in pieces whose concatenation is the organizer's decoded text; every tag and every stretch of words
    is a piece of its own. `work` holds the places of those that don't organize: own searches, tallies, the answer (its
    tags are no work). `workers[i]` is the whole text that the worker of FORK-i writes, in the order of the forks, and
    `returns[i]` the part of it inside `<RETURN>`.
    """

    problem: Problem
    organizer: tuple[str, ...]
    work: frozenset[int] = frozenset()
    workers: dict[int, str] = dataclasses.field(default_factory=dict)
    returns: dict[int, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A line of a file of demonstrations (`data.demonstrations`)."""
        return {
            "problem": self.problem.to_json(),
            "organizer": list(self.organizer),
            "work": sorted(self.work),
            "workers": {str(fork_id): text for fork_id, text in self.workers.items()},
            "returns": {str(fork_id): text for fork_id, text in self.returns.items()},
        }

    @classmethod
    def from_json(cls, record: Record, problem: Callable[[Record], Problem]) -> "Script":
        """The inverse of `to_json`; `problem` is `Task.from_json`. KeyError, TypeError, ValueError for what is none."""

        def texts(name: str) -> dict[int, str]:
            return {int(fork_id): _text(text) for fork_id, text in dict(record.get(name, {})).items()}

        return cls(
            problem(record["problem"]),
            tuple(_text(piece) for piece in list(record["organizer"])),
            frozenset(int(place) for place in record.get("work", ())),
            texts("workers"),
            texts("returns"),
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


P = TypeVar("P", bound=Problem)


def shown(default: Any) -> Any:
    """A field of a task that changes its demonstrations, or how they are weighed, but not its problems."""
    return dataclasses.field(default=default, metadata={"problems": False})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC, Generic[P]):
    """One family of problems. A subclass is under 250 lines, and stands in `tasks/__init__.py:TASKS`."""

    name: str  # which task; files of episodes carry it
    validation_problems: int = 200  # size of the validation split: every choice is made on it
    test_problems: int = 600  # size of the test split, disjoint from the others
    split_seed: int = 0  # seed of the split alone: the same for all runs that are compared
    demonstrations: Literal["random", "oracle"] = shown("random")  # cold start: random action sequences, or the best
    worker_keep: float = shown(1.0)  # share of the demonstrated workers' traces that the cold start trains on
    answer_weight: float = shown(1.0)  # loss weight of a demonstration's answer: its copying is learned late

    # The least and the most that each number among the fields may be; a subclass adds its own: {**Task.ranges, ..}.
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "validation_problems": (1, INF),
        "test_problems": (1, INF),
        "split_seed": (0, INF),
        "worker_keep": (0, 1),
        "answer_weight": (0, INF),
    }
    # What a stored record holds: each value a number, a list of numbers, a text or a list of texts.
    fields: ClassVar[Mapping[str, FieldType]]
    # The splits that `records` gives; `train`, `validation` and `test` are always among them.
    split_names: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    # A word of the demonstrations on which everything hangs, whose loss may weigh more (`mark_weight`); "" = none.
    mark: ClassVar[str] = ""

    def check(self) -> Iterator[tuple[bool, str]]:
        """(holds?, the line to print if it doesn't): what fields must be to each other. Reads no file."""
        yield from ()

    def problem_fields(self) -> dict[str, Any]:
        """The fields that decide about the problems, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get("problems", True)
        }

    @property
    def files(self) -> Sequence[str]:
        """The files that `records` reads: what is stored of the problems is made again when they have changed."""
        return ()

    def splits(self, skip_bad: bool = False) -> dict[str, list[P]]:
        """The problems of every split, see `records`, in the order in which a run has them; nothing is stored."""
        records = self.records(skip_bad)
        return {name: self.problems_of(records[name]) for name in self.split_names}

    def problems_of(self, records: Iterable[Record]) -> list[P]:
        """The problems of a split, in a random but fixed order: any part of a split is then a fair sample of it."""
        problems = [problem for record in records for problem in self.problems(record)]
        return [problems[i] for i in np.random.default_rng(0).permutation(len(problems))]

    @property
    def mark_weight(self) -> float:
        """Loss weight of `mark` in a demonstration."""
        return 1.0

    @property
    def demonstrated_forks(self) -> int:
        """The largest id that a demonstration by program forks, where fields say so; 0 = they don't."""
        return 0

    @property
    def wanted(self) -> int:
        """Right parts that a whole answer has."""
        return 1

    @property
    @abc.abstractmethod
    def instructions(self) -> str:
        """The task in words, for a model that reads (`protocol/prompts.py`)."""

    @abc.abstractmethod
    def records(self, skip_bad: bool = False) -> Mapping[str, Iterable[Record]]:
        """The records of every split, made or read from files; a record is one problem, or several that share a part.

        With `skip_bad` a broken line of a file is reported and left out. Raises ValueError, in one line with file and
        line number, for a broken one without it, and where there are too few problems.
        """

    @abc.abstractmethod
    def problems(self, record: Record) -> Sequence[P]:
        """The problems of a record."""

    @abc.abstractmethod
    def from_json(self, record: Record) -> P:
        """The inverse of `Problem.to_json`."""

    @abc.abstractmethod
    def score(self, problem: P, answer: str | None) -> Score:
        """Judges an answer. Any string will do; nothing in it is evaluated. None: there was no answer."""

    @abc.abstractmethod
    def merge(self, answers: Sequence[str | None]) -> str | None:
        """One answer out of those of independent traces (the parallel paradigm); looks at no solution."""

    def group(self, problem: P) -> str:
        """The part of its split that a problem is of, like a category: parts are scored apart too. "" = no parts."""
        del problem
        return ""

    def tokenizer_texts(self) -> list[str]:
        """Texts that hold every word of the task, to train a tokenizer on: each becomes one token.

        Raises ValueError for a task in free text, which only a pretrained model can read.
        """
        raise ValueError(f"{self.name} is in free text: it needs a pretrained model (the field `pretrained`)")

    def script(self, splits: Splits, kind: Kind, agents: int, rng: np.random.Generator) -> Script:
        """One fresh demonstration, of a problem of the training splits drawn at random.

        kind: "random" (a random legal interleaving of forks, joins and own work, as in the paper's section 3), "oracle"
        (everything covered and overlapped) or "sequential" (one trace; also for the parallel paradigm). agents: c, the
        organizer included. Raises ValueError for a task that no program can demonstrate.
        """
        raise ValueError(
            f"no program writes demonstrations of {self.name}: have another model write them (python -m asyncthink_jax."
            "synthesize) and name their file as data.demonstrations, or skip the cold start (sft.steps=0)"
        )
