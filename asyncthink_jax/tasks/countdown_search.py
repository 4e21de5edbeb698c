"""A problem of Countdown, and the search of one pair of its numbers, as a worker writes it down.

The work divides into pairs: an expression of two or three numbers starts with an operation on some pair, whose result
may be combined with one of the remaining numbers. Searching all six pairs of four numbers finds everything, and each
search is independent of the others. So a sub-query is a pair (with all that a worker needs to search it, since it sees
nothing else), and what the organizer has to learn is which pairs to hand out, when, and when to wait for them.

All texts are words separated by single spaces, one token a word (data/tokenizer.py):

    problem          5 6 8 10 = 3                   (numbers ascending, the target)
    sub-query       " 5 8 6 10 = 3"                 (the pair, the rest, the target)
    search          " + 13 6 19 7 78 10 23 3 ! 5 + 8 - 10 130 .." (see `search`)
    worker trace    the search, then `<RETURN> 5 + 8 - 10 , 8 - 5</RETURN>`, or `<RETURN> none</RETURN>`
    own search      " 5 8 6 10 = 3 :" + the search  (by an organizer that does a pair itself)
    tally           " #2"                           (after a Join or own search: solutions there are, at most 4)
    answer          `<ANSWER> E1 , E2 , E3 , E4</ANSWER>`, or `<ANSWER> none</ANSWER>`
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

from asyncthink_jax.tasks import expressions

OPERATORS = ("+", "-", "*", "/")
NONE = " none"
HIT = "!"  # stands after a value that is the target

Pair = tuple[int, int]
Found = tuple[str, tuple[str, ...]]  # the text of a search, and the distinct solutions in the order of the text


@dataclass(frozen=True)
class Problem:
    """Distinct numbers and a target: find so many expressions that reach it, each number used at most once in it."""

    numbers: tuple[int, ...]  # ascending
    target: int
    n_solutions: int = 4

    @property
    def query(self) -> str:
        return f"{' '.join(map(str, self.numbers))} = {self.target}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "numbers": list(self.numbers)}


def pairs(problem: Problem) -> tuple[Pair, ...]:
    """The pairs of numbers, C(numbers, 2) of them, in ascending order of the larger number, then of the smaller.

    In this order the long searches come first, more or less: the best schedule that was found for four agents takes as
    many steps as in the order of the smaller number, but keeps them busier (eta/c 0.564, there 0.551).
    """
    return _pairs(problem.numbers)


@lru_cache(maxsize=1 << 13)
def _pairs(numbers: tuple[int, ...]) -> tuple[Pair, ...]:
    return tuple(sorted(combinations(numbers, 2), key=lambda pair: pair[::-1]))


def sub_query(problem: Problem, pair: Pair) -> str:
    """What a worker is told: the pair, the other numbers, the target."""
    rest = " ".join(str(n) for n in problem.numbers if n not in pair)
    return f" {pair[0]} {pair[1]} {rest} = {problem.target}"


@lru_cache(maxsize=1 << 16)
def results(a: int, b: int, max_value: int) -> tuple[tuple[str, int, bool], ...]:
    """(operator, value, whether b is the left operand) of the operations on two numbers, in the order + - * /.

    Only positive whole values of at most `max_value`. Of the two differences and the two quotients at most one is such
    a value; where a = b the quotient is written a / b.
    """
    found = [("+", a + b, False), ("-", abs(a - b), a < b), ("*", a * b, False)]
    if a % b == 0:
        found.append(("/", a // b, False))
    elif b % a == 0:
        found.append(("/", b // a, True))
    return tuple(one for one in found if 0 < one[1] <= max_value)


def second_results(
    operator: str, subtotal: int, larger: int, third: int, max_value: int
) -> Sequence[tuple[str, int, bool]]:
    """`results` of a pair's value (by `operator`) and a third number, as far as that pair is the one to look at them.

    Two operations of one kind (both of + and -, or both of * and /) are combined only if the third number is above the
    `larger` of the pair: a + b - c can be reached from every pair of its three numbers, and so it is found just once.
    Workers' findings never repeat then, and an organizer need not compare them. (Of products and quotients it costs
    those that the two smaller numbers do not lead to, like 20 / 4 * 6: one solution in forty.)
    """
    found = results(subtotal, third, max_value)
    return found if third > larger else [one for one in found if is_next(operator, larger, one[0], third)]


def is_next(operator: str, number: int, following: str, last: int) -> bool:
    """Whether another step may follow: of two orders that make no difference, the ascending one."""
    return last > number or is_sum(following) != is_sum(operator)


def is_sum(operator: str) -> bool:
    """Whether it is one of + and -, not of * and /."""
    return operator in "+-"


@lru_cache(maxsize=1 << 15)
def _search(a: int, b: int, rest: tuple[int, ...], target: int, max_value: int) -> Found:
    words, hits = [], []
    for operator, subtotal, b_first in results(a, b, max_value):
        left, right = (b, a) if b_first else (a, b)
        words += [operator, str(subtotal)]
        if subtotal == target:
            hits.append(expressions.canonical((operator, left, right)))
            words += [HIT, hits[-1]]
        for third in rest:
            words.append(str(third))
            for second, total, third_first in second_results(operator, subtotal, b, third, max_value):
                words.append(str(total))
                if total == target:
                    hits.append(expressions.canonical_of_three(left, operator, right, second, third, third_first))
                    words += [HIT, hits[-1]]
    return " " + " ".join(words), tuple(dict.fromkeys(hits))


def search(problem: Problem, pair: Pair, max_value: int) -> Found:
    """The text of the search of one pair, and the distinct solutions found, in the order in which they were found.

    For each operation on the pair: the operator and its value, then for each other number that number and the values
    of its combinations with it (`second_results`). A value equal to the target is followed at once by "!" and the
    whole expression: a small model needs the expression written while it is at hand (exact searches went from 0.906 to
    0.977).
    """
    a, b = pair
    return _search(a, b, tuple(n for n in problem.numbers if n not in pair), problem.target, max_value)


def worker_text(found: Found) -> str:
    """The whole trace of a worker whose search is this."""
    text, hits = found
    return f"{text}<RETURN>{listing(hits)}</RETURN>"


def listing(solutions: Sequence[str]) -> str:
    """ " E1 , E2", or " none"."""
    return " " + " , ".join(solutions) if solutions else NONE


def count_solutions(numbers: tuple[int, ...], max_value: int) -> dict[int, int]:
    """For every target that can be asked of these numbers: how many distinct solutions the searches find."""
    found: dict[int, set[str]] = {}
    for a, b in combinations(numbers, 2):
        for operator, subtotal, b_first in results(a, b, max_value):
            left, right = (b, a) if b_first else (a, b)
            found.setdefault(subtotal, set()).add(expressions.canonical((operator, left, right)))
            for third in numbers:
                if third in (a, b):
                    continue
                for second, total, third_first in second_results(operator, subtotal, b, third, max_value):
                    solution = expressions.canonical_of_three(left, operator, right, second, third, third_first)
                    found.setdefault(total, set()).add(solution)
    return {target: len(found[target]) for target in sorted(found) if target not in numbers}
