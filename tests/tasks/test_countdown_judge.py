"""Another judge of Countdown, that of reasoning-gym, says the same of an expression as our scorer.

Theirs asks that all numbers are used, ours that none is used twice: so theirs is asked of every part of the numbers
that has as many as the expression. Theirs reads what sympy reads and compares floats; what only that lets pass is told
below.
"""

import random
import re
from fractions import Fraction
from itertools import combinations

import pytest

from asyncthink_jax.tasks import Countdown
from asyncthink_jax.tasks.countdown_search import Problem

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judge():
    from reasoning_gym.games import countdown  # imports all its games: seconds, for the slow tests alone

    return countdown.CountdownDataset(countdown.CountdownConfig(size=1))


def theirs(judge, problem, text):
    used = len(re.findall(r"\d+", text))
    parts = combinations(problem.numbers, used) if 0 < used <= len(problem.numbers) else [problem.numbers]
    entries = ({"metadata": {"numbers": part, "target": problem.target}} for part in parts)
    return any(judge.score_answer(text, entry) == 1.0 for entry in entries)


def ours(problem, text):
    return Countdown().score(problem, text)["correct"] == 1


def expression(rng, numbers):
    """A random expression that uses each of the numbers once, in a random order and grouping."""
    if len(numbers) == 1:
        return str(numbers[0])
    cut = rng.randrange(1, len(numbers))
    sides = [expression(rng, numbers[:cut]), expression(rng, numbers[cut:])]
    sides = [f"( {side} )" if " " in side and rng.random() < 0.8 else side for side in sides]
    return rng.choice(["{} {} {}", "{}{}{}"]).format(sides[0], rng.choice("+-*/"), sides[1])


def exact(text):
    """The value of an expression of our own making, by Python."""
    try:
        return eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


def broken(rng, text):
    """The expression with a character too few or too many, of those that neither judge can make anything of."""
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice([")", "(", "/)", "*/", "?", "&", "$"]) + text[at + rng.randrange(2) :]


def cases(n):
    """(problem, text, what was done to it)."""
    rng = random.Random(0)
    for number in range(n):
        numbers = rng.sample(range(1, 31), 4)
        text = expression(rng, rng.sample(numbers, rng.randrange(1, 5)))
        value = exact(text)
        whole = value is not None and value.denominator == 1 and abs(value) < 10_000
        kind = ("right", "value", "twice", "strange", "broken")[number % 5]
        target = int(value) if whole else rng.randrange(1, 100)
        if kind == "value":
            target += rng.choice([-1, 1])
        elif kind == "twice":
            used = re.findall(r"\d+", text)[-1]
            changed = [(f"{text} + {used} - {used}", target), (f"( {text} ) + {used}", target + int(used))]
            text, target = rng.choice(changed)
        elif kind == "strange":
            new = next(n for n in range(1, 99) if n not in numbers)
            text, target = f"( {text} ) + {new}", target + new
        elif kind == "broken":
            text = broken(rng, text)
        yield Problem(tuple(sorted(numbers)), target), text, kind


def test_two_judges_agree_on_thousands_of_expressions(judge, sweep):
    right = dict.fromkeys(("right", "value", "twice", "strange", "broken"), 0)
    for problem, text, kind in cases(2_000 * sweep):
        verdict = ours(problem, text)
        assert verdict == theirs(judge, problem, text), (problem, text, kind)
        right[kind] += verdict
    # A value may be no whole number, and a broken text may have become another expression: never so what is wrong.
    assert right["right"] > 200 and right["value"] == right["twice"] == right["strange"] == 0


@pytest.mark.parametrize(
    ("numbers", "target", "text", "why"),
    [
        ((3, 5, 7, 8), 3, "-5 + 8", "a sign is no operation"),
        ((2, 3, 5, 8), 9, "3 ** 2", "nor is a power"),
        ((2, 3, 5, 8), 6, "(2)*(3) # yes", "a comment is no part of an expression"),
        ((1, 9, 50, 9999), 50, "50 + 1 / 9999", "values are exact: theirs are equal within a part in 100,000"),
    ],
)
def test_what_only_their_judge_lets_pass(judge, numbers, target, text, why):
    problem = Problem(numbers, target)
    assert theirs(judge, problem, text) and not ours(problem, text), why
