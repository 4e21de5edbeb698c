"""Multi-solution Countdown, small enough to learn from scratch (paper, section 5: MCD).

A problem: distinct numbers and a target; find `n_solutions` different expressions that reach the target, each number
used at most once. In the demo the numbers are four of 2..20, the target is at most 99, and every solution that is
looked for uses two or three of the numbers with positive whole intermediate values of at most 99. How it is searched
stands in `countdown_search.py`, who searches what in `countdown_scripts.py`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import ClassVar, Literal

import numpy as np

from asyncthink_jax.tasks import answer_text, countdown_scripts, countdown_search, expressions
from asyncthink_jax.tasks.countdown_search import HIT, OPERATORS, Found, Pair, Problem, listing, pairs
from asyncthink_jax.tasks.task import INF, FieldType, Kind, Record, Score, Script, Splits, Task, shown

MAX_ANSWER_CHARACTERS = 4096  # a longer answer counts as one wrong expression and is not looked at
MAX_ANSWER_EXPRESSIONS = 64  # of one answer; those beyond count as wrong and are not looked at
_BETWEEN = re.compile(r"[,;]\s*(?:(?:and|or)\s)?|\s(?:and|or)\s|\n\s*")  # two expressions
_TIMES = re.compile(r"(?<=[\d)])( ?)[xX]( ?)(?=[\d(])")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_VALUE = re.compile(r"(.*?)(?:=\s*(\d+)|\(\s*=\s*(\d+)\s*\))", re.ASCII)
_LISTS = (("[", "]"), ("{", "}"), (r"\{", r"\}"))
_TICKS = " \N{CHECK MARK}\N{HEAVY CHECK MARK}\N{WHITE HEAVY CHECK MARK}"
# Answers that claim nothing.
NOTHING = (
    *("none", "(none)", "no solution", "no solutions", "no solution exists", "no solution found", "no solutions found"),
    *("there is no solution", "there are no solutions", "nothing", "impossible", "n/a"),
)
_BULLET = re.compile(r"[-*+] ")
_NUMBERING = re.compile(r"\(?(\d{1,2})[.)]:? +")


@dataclass(frozen=True, kw_only=True)
class Countdown(Task[Problem]):
    """The tiny one. No two of train, validation and test share the numbers of a problem.

    `train`, `validation` and `test` hold problems with at least `n_solutions` solutions, `train_few` those with fewer
    (of the training number sets), from which demonstrations may learn too. A record is a set of numbers with all its
    targets: the demo's 130,000 problems are read in 1.6 s where one record each took 6.6 s (2 busy cores).
    """

    name: str = "countdown_tiny"
    numbers: int = 4  # numbers in a problem, all distinct
    min_number: int = 2  # smallest number, inclusive
    max_number: int = 20  # largest number, inclusive
    max_target: int = 99  # largest target and largest intermediate value
    n_solutions: int = 4  # distinct solutions asked for (4 in the paper's multi-solution Countdown)
    few_share: float = shown(0.1)  # share of the demonstrations whose problem has fewer solutions than asked for
    in_order: float = shown(0.5)  # share of demonstrations that take and join their pairs in order, not at random
    enough: float = shown(0.0)  # share of demonstrations that answer as soon as all solutions asked for are there
    # Action sequences of random demonstrations: any legal one, or the two that a language model falls into by itself.
    shapes: Literal["any", "two"] = shown("any")
    hit_weight: float = shown(1.0)  # loss weight of the mark of a hit in a demonstrated search: rare, all hangs on it
    self_search: float = shown(0.15)  # chance that an organizer searches a pair itself although a worker is free

    fields: ClassVar[Mapping[str, FieldType]] = {"numbers": "ints", "targets": "ints", "n_solutions": "int"}
    split_names: ClassVar[tuple[str, ...]] = ("train", "train_few", "validation", "test")
    mark: ClassVar[str] = HIT
    how_many: ClassVar[str] = "two or three"  # of the numbers are in the solutions that are looked for
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        **Task.ranges,
        "numbers": (2, 8),
        "min_number": (1, INF),
        "max_number": (1, 9999),  # expressions.py reads no larger one
        "max_target": (1, INF),
        "n_solutions": (1, INF),
        "few_share": (0, 1),
        "in_order": (0, 1),
        "enough": (0, 1),
        "hit_weight": (0, INF),
        "self_search": (0, 1),
    }

    def check(self) -> Iterator[tuple[bool, str]]:
        yield (
            self.max_number - self.min_number + 1 >= self.numbers,
            f"task: {self.numbers} distinct numbers don't fit between {self.min_number} and {self.max_number}",
        )

    @property
    def wanted(self) -> int:
        return self.n_solutions

    @property
    def mark_weight(self) -> float:
        return self.hit_weight

    @property
    def demonstrated_forks(self) -> int:
        return comb(self.numbers, 2)  # the pairs: a fork's id is its pair's place among those taken up

    @property
    def instructions(self) -> str:
        n = self.n_solutions
        return (
            "Task: a question is some numbers, then = and a target, like 5 6 8 10 = 3. Find "
            f"{'an expression' if n == 1 else f'{n} different expressions'} with the value of the target, made of "
            f"{self.how_many} of the numbers, each used at most once, with + - * / and brackets. Expressions that "
            "differ only in the order or grouping of sums or products count as one. The answer is the expressions with "
            "commas between, like <ANSWER> 5 + 6 - 8 , 8 - 5</ANSWER>, or <ANSWER> none</ANSWER>. A sub-query is two "
            "of the numbers to start with, the other numbers, = and the target, like <FORK-1> 5 8 6 10 = 3</FORK-1>."
        )

    def tokenizer_texts(self) -> list[str]:
        words = [str(n) for n in range(1, max(self.max_target, self.max_number) + 1)]
        words += [*OPERATORS, "(", ")", "=", ":", HIT, ",", "none"]
        words += [f"#{count}" for count in range(self.n_solutions + 1)]
        return ["".join(f" {word}" for word in words), "solve", "work"] * 20

    # -------------------------------------------------------------------------------------------------------- problems

    def records(self, skip_bad: bool = False) -> dict[str, list[Record]]:
        """All problems that there are: validation and test have exactly the number asked for, train the others."""
        number_sets = list(combinations(range(self.min_number, self.max_number + 1), self.numbers))
        rng = np.random.default_rng(self.split_seed)
        rng.shuffle(number_sets)
        asked = {"test": self.test_problems, "validation": self.validation_problems}
        found: dict[str, list[tuple[tuple[int, ...], list[int]]]] = {name: [] for name in self.split_names}
        counts = dict.fromkeys(self.split_names, 0)

        def add(split: str, numbers: tuple[int, ...], targets: list[int]) -> None:
            targets = targets[: asked[split] - counts[split]] if split in asked else targets
            counts[split] += len(targets)
            if targets:
                found[split].append((numbers, targets))

        for number_set in number_sets:
            numbers = tuple(int(n) for n in number_set)
            split = next((name for name, n in asked.items() if counts[name] < n), "train")
            solutions = countdown_search.count_solutions(numbers, self.max_target)
            add(split, numbers, [target for target, count in solutions.items() if count >= self.n_solutions])
            if split == "train":
                few = [target for target, count in solutions.items() if count < self.n_solutions]
                add("train_few", numbers, few)
        for name, n in asked.items():
            if counts[name] < n:
                raise ValueError(f"{name} split: {n} problems asked, the rules give {counts[name]}: ask for fewer")
        if not found["train"]:
            raise ValueError("train split: no problem left beside validation and test: ask for fewer there")
        return {name: [self._record(*one) for one in sorted(found[name])] for name in self.split_names}

    def _record(self, numbers: Sequence[int], targets: Sequence[int]) -> Record:
        return {"numbers": list(numbers), "targets": list(targets), "n_solutions": self.n_solutions}

    def problems(self, record: Record) -> list[Problem]:
        numbers, n_solutions = tuple(record["numbers"]), record["n_solutions"]
        return [Problem(numbers, target, n_solutions) for target in record["targets"]]

    def from_json(self, record: Record) -> Problem:
        return Problem(tuple(int(n) for n in record["numbers"]), int(record["target"]), int(record["n_solutions"]))

    # -------------------------------------------------------------------------------------------------- demonstrations

    def search(self, problem: Problem, pair: Pair) -> Found:
        """What a worker writes about a pair, and what it finds."""
        return countdown_search.search(problem, pair, self.max_target)

    def solutions(self, problem: Problem) -> list[str]:
        """All distinct solutions that the searches of all pairs find, in that order."""
        return list(dict.fromkeys(hit for pair in pairs(problem) for hit in self.search(problem, pair)[1]))

    def script(self, splits: Splits, kind: Kind, agents: int, rng: np.random.Generator) -> Script:
        few = splits["train_few"]
        source = few if few and rng.random() < self.few_share else splits["train"]
        problem = source[int(rng.integers(len(source)))]
        if kind == "random" and self.shapes == "two" and agents > 1:
            return countdown_scripts.two_shapes_demonstration(
                problem, self.search, rng, agents, self.in_order, self.enough
            )
        if kind == "random":
            return countdown_scripts.random_demonstration(
                problem, self.search, rng, agents, self.self_search, in_order=self.in_order, enough=self.enough
            )
        if kind == "oracle":
            return countdown_scripts.oracle_demonstration(problem, self.search, agents)
        return countdown_scripts.sequential_demonstration(problem, self.search, rng, self.in_order, self.enough)

    # --------------------------------------------------------------------------------------------------------- scoring

    def score(self, problem: Problem, answer: str | None) -> Score:
        """Judges expressions separated by commas, semicolons or line breaks, or "none".

        accuracy is min(correct, asked) / asked (paper, section 4), correct counts distinct right expressions,
        answered those given. Wrong are those that are no expression, use a number that is not there or more often than
        it is there, miss the target, or repeat an earlier one. An expression may be followed by its value: 8 - 5 = 3.
        An answer beyond MAX_ANSWER_CHARACTERS is one wrong expression.
        """
        if answer is not None and len(answer) > MAX_ANSWER_CHARACTERS:
            return {"accuracy": 0.0, "correct": 0, "answered": 1, "wrong": 1}
        given = answered_expressions(answer)
        solved = (_solution(problem, text) for text in given[:MAX_ANSWER_EXPRESSIONS])
        right = {solution for solution in solved if solution}
        accuracy = min(len(right), problem.n_solutions) / problem.n_solutions
        return {"accuracy": accuracy, "correct": len(right), "answered": len(given), "wrong": len(given) - len(right)}

    def merge(self, answers: Sequence[str | None]) -> str:
        """The union of the answers, ranked by votes, cut to what is asked.

        A vote is an answer that holds the expression (up to commutativity and associativity); ties go to the expression
        that came first. No expression is checked against the problem; what cannot be parsed has no votes.
        """
        votes: dict[str, int] = {}
        for answer in answers:
            if answer is not None and len(answer) > MAX_ANSWER_CHARACTERS:
                continue
            trees = (_tree(text) for text in answered_expressions(answer)[:MAX_ANSWER_EXPRESSIONS])
            for text in dict.fromkeys(expressions.canonical(tree) for tree in trees if tree is not None):
                votes[text] = votes.get(text, 0) + 1
        return listing(sorted(votes, key=lambda text: -votes[text])[: self.n_solutions])


def answered_expressions(answer: str | None) -> list[str]:
    """The expressions of an answer, unparsed: none for "none" or nothing at all.

    They are separated by commas, semicolons or line breaks; a list may have bullets or be numbered, if all of it is.
    """
    text = _FRACTION.sub(r"((\1) / (\2))", answer_text.clean(answer or ""))
    text = _TIMES.sub(r"\1*\2", text)
    text = _unlisted(text)
    parts = [answer_text.clean(part, prefix=True) for part in _BETWEEN.split(text)] if text else []
    texts = [_unlisted(part).rstrip(_TICKS) for part in parts]
    is_list = len(texts) > 1 or text.startswith("*")  # a single - or + may be a sign
    if is_list and all(_BULLET.match(text) for text in texts):
        texts = [text[2:].strip() for text in texts]
    numbers = [_NUMBERING.match(text) for text in texts]
    if all(match and int(match[1]) == place for place, match in enumerate(numbers, 1)):
        texts = [text[match.end() :] for text, match in zip(texts, numbers, strict=True) if match]
    return [] if len(texts) == 1 and texts[0].casefold() in NOTHING else texts


def _unlisted(text: str) -> str:
    """`text` without the brackets of a list around it."""
    for opening, closing in _LISTS:
        inner = text[len(opening) : -len(closing)]
        if text == opening + inner + closing and not {opening[-1], closing[-1]} & set(inner):
            return inner.strip()
    return text


def _tree(text: str) -> expressions.Tree | None:
    """An expression, alone or before its own value."""
    match = _VALUE.fullmatch(text) if len(text) <= expressions.MAX_CHARACTERS else None
    tree = expressions.parse(match[1] if match else text)
    if tree is None or match is None:
        return tree
    return tree if expressions.value(tree) == int(match[2] or match[3]) else None


def _solution(problem: Problem, text: str) -> str | None:
    """The canonical text if this is an expression that solves the problem."""
    tree = _tree(text)
    if tree is None or Counter(expressions.leaves(tree)) - Counter(problem.numbers):
        return None
    return expressions.canonical(tree) if expressions.value(tree) == problem.target else None
