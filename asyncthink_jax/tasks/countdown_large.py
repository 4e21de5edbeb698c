"""Multi-solution Countdown of the paper's size (paper, section 5): four numbers of 1 to 99, a target from 10 to 100.

A problem has at least four solutions among those that use each number at most once, two, three or all four of them,
with positive whole intermediate values of at most `max_value`. There are 3.7 million sets of numbers, so problems are
drawn, not enumerated: a set of numbers is drawn once, and with it one of its targets that have enough solutions (one
set in five has any), so no two problems of any splits share their numbers. More than that there are four numbers, a
range, a target, and 400 test problems, is not known of the paper's own problems. As solutions are counted here, a 1
among the numbers, or two neighbours, makes several of one: 79 - 66, 79 - 1 * 66, ( 79 - 66 ) / 1 ..

The work divides into pairs as in the tiny one; problem, sub-query, tally and answer look the same. A search goes one
number deeper, but not by writing all that four numbers can give. It first writes what each of the two other numbers
needs to make the target; 6 9 27 57 = 19, the pair 6 9:

    " for 27 46 8 513 for 57 76 38 3"               what 27 needs: 46 - 27, 27 - 8 and 513 / 27 are 19; what 57 needs
    " + 15 with 27 42 12 405 with 57 72 42 855"     an operation on the pair and its value; that with 27, that with 57
    " with 27 + 57 = 84 with 57 - 27 = 30 450 2"    that with both, written by the pair with the smallest number
    " - 3 with 27 .. with 57 60 54 171 19 ! 57 / ( 9 - 6 ) .."

A value is followed by "!" and the whole expression where it is the target, or what the number that is left needs. Such
a search has 20 to 120 words, 45 mostly. Six of them find all there is, but for some that multiply and divide in a row.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import ClassVar

import numpy as np

from asyncthink_jax.tasks import expressions
from asyncthink_jax.tasks.countdown import Countdown
from asyncthink_jax.tasks.countdown_search import (
    HIT,
    Found,
    Pair,
    Problem,
    is_next,
    is_sum,
    results,
    second_results,
)
from asyncthink_jax.tasks.task import INF, Record


@dataclass(frozen=True, kw_only=True)
class LargeCountdown(Countdown):
    """The paper's size. `train_few` has problems with fewer solutions than asked for, a tenth as many as `train`."""

    name: str = "countdown"
    min_number: int = 1
    max_number: int = 99
    min_target: int = 10  # smallest target
    max_target: int = 100  # largest target
    max_value: int = 999  # largest intermediate value
    train_problems: int = 20_000  # size of the training split
    test_problems: int = 400

    how_many: ClassVar[str] = "two or more"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        **Countdown.ranges,
        "numbers": (2, 4),
        "min_target": (2, INF),
        "max_value": (1, INF),
        "train_problems": (1, INF),
    }

    def check(self) -> Iterator[tuple[bool, str]]:
        yield from super().check()
        yield (
            self.min_target <= self.max_target <= self.max_value,
            f"task: min_target ({self.min_target}), max_target ({self.max_target}) and max_value ({self.max_value}) "
            "must be in this order",
        )

    def tokenizer_texts(self) -> list[str]:
        words = [str(n) for n in range(1, max(self.max_value, self.max_number) + 1)]
        return [*super().tokenizer_texts(), *["".join(f" {word}" for word in [*words, "for", "with"])] * 20]

    def records(self, skip_bad: bool = False) -> dict[str, list[Record]]:
        asked = {"test": self.test_problems, "validation": self.validation_problems, "train": self.train_problems}
        found: dict[str, list[Record]] = {name: [] for name in self.split_names}
        rng, drawn, in_vain = np.random.default_rng(self.split_seed), set(), 0
        pool = np.arange(self.min_number, self.max_number + 1)
        for split, n in asked.items():
            while len(found[split]) < n:
                numbers = tuple(sorted(int(x) for x in rng.choice(pool, self.numbers, replace=False)))
                counts = {} if numbers in drawn else self._counts(numbers)
                drawn.add(numbers)
                enough = [target for target, count in counts.items() if count >= self.n_solutions]
                few = [target for target, count in counts.items() if count < self.n_solutions]
                if enough:
                    found[split].append(self._record(numbers, [enough[int(rng.integers(len(enough)))]]))
                elif few and split == "train" and len(found["train_few"]) < n // 10:
                    found["train_few"].append(self._record(numbers, [few[int(rng.integers(len(few)))]]))
                in_vain = 0 if enough else in_vain + 1
                if in_vain == 10_000:
                    raise ValueError(f"{split} split: {n} problems asked, {len(found[split])} found: ask for fewer")
        return found

    def _counts(self, numbers: tuple[int, ...]) -> dict[int, int]:
        """Solutions of every target that can be asked of these numbers and has any."""
        counts = count_solutions(numbers, self.max_value)
        targets = range(self.min_target, self.max_target + 1)
        return {target: counts[target] for target in targets if target in counts and target not in numbers}

    def search(self, problem: Problem, pair: Pair) -> Found:
        rest = tuple(n for n in problem.numbers if n not in pair)
        return _search(*pair, rest, problem.target, self.max_value)


def count_solutions(numbers: tuple[int, ...], max_value: int) -> Counter[int]:
    """For every value: how many distinct solutions the searches of all pairs would find."""
    counts: Counter[int] = Counter()
    for a, b in combinations(numbers, 2):
        rest = [n for n in numbers if n not in (a, b)]
        for operator, subtotal, _ in results(a, b, max_value):
            counts[subtotal] += 1
            for third in rest:
                for second, total, _ in second_results(operator, subtotal, b, third, max_value):
                    counts[total] += 1
                    for last in rest:
                        if last != third:
                            found = results(total, last, max_value)
                            counts.update(one[1] for one in found if is_next(second, third, one[0], last))
            if len(rest) == 2 and a < min(rest):
                for other, subtotal_of_others, _ in results(rest[0], rest[1], max_value):
                    if is_sum(other) == is_sum(operator):
                        found = results(subtotal, subtotal_of_others, max_value)
                        counts.update(one[1] for one in found if is_sum(one[0]) != is_sum(operator))
    return counts


def needs(number: int, target: int, max_value: int) -> dict[int, list[tuple[str, bool]]]:
    """The values with which a number makes the target: value -> (operator, whether the number is on its left)."""
    found: dict[int, list[tuple[str, bool]]] = {}

    def add(value: int, operator: str, number_first: bool) -> None:
        if 0 < value <= max_value:
            found.setdefault(value, []).append((operator, number_first))

    add(target - number, "+", False)
    add(target + number, "-", False)
    add(number - target, "-", True)
    if target % number == 0:
        add(target // number, "*", False)
    add(target * number, "/", False)
    if number % target == 0:
        add(number // target, "/", True)
    return found


@lru_cache(maxsize=1 << 15)
def _search(a: int, b: int, rest: tuple[int, ...], target: int, max_value: int) -> Found:
    words: list[str] = []
    hits: list[str] = []

    def value(total: int, tree: expressions.Tree) -> None:
        words.append(str(total))
        if total == target:
            hit(tree)

    def hit(tree: expressions.Tree) -> None:
        hits.append(expressions.canonical(tree))
        words.extend((HIT, hits[-1]))

    needed = {number: needs(number, target, max_value) for number in rest} if len(rest) == 2 else {}
    for number, values in needed.items():
        words += ["for", str(number), *map(str, values)]
    for operator, subtotal, b_first in results(a, b, max_value):
        pair = _tree(operator, a, b, b_first)
        words.append(operator)
        value(subtotal, pair)
        for third in rest:
            words += ["with", str(third)]
            for second, total, third_first in second_results(operator, subtotal, b, third, max_value):
                three = _tree(second, pair, third, third_first)
                value(total, three)
                for last in (number for number in needed if number != third):
                    for final, last_first in needed[last].get(total, ()):
                        if is_next(second, third, final, last):
                            hit(_tree(final, three, last, last_first))
        if len(rest) == 2 and a < min(rest):  # the pair with the smallest number, so that one of two writes it
            for other, subtotal_of_others, second_first in results(rest[0], rest[1], max_value):
                if is_sum(other) != is_sum(operator):
                    continue  # is written by the other pair, as it takes these two numbers one after the other
                others = _tree(other, rest[0], rest[1], second_first)
                words += ["with", *map(str, (others[1], other, others[2])), "=", str(subtotal_of_others)]
                for top, total, others_first in results(subtotal, subtotal_of_others, max_value):
                    if is_sum(top) != is_sum(operator):
                        value(total, _tree(top, pair, others, others_first))
    return " " + " ".join(words), tuple(dict.fromkeys(hits))


def _tree(operator: str, left: expressions.Tree, right: expressions.Tree, swapped: bool) -> tuple:
    return (operator, right, left) if swapped else (operator, left, right)
