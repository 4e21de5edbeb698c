"""Expressions: exact values, one canonical text, and no harm from any input."""

import random
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncthink_jax.tasks import expressions


def trees(numbers):
    """Any tree over exactly these numbers, in any order."""

    def build(draw_order):
        order, rng = draw_order
        parts = list(order)
        while len(parts) > 1:
            i = rng.randrange(len(parts) - 1)
            parts[i : i + 2] = [(rng.choice("+-*/"), parts[i], parts[i + 1])]
        return parts[0]

    return st.tuples(st.permutations(numbers), st.randoms(use_true_random=False)).map(build)


def as_text(tree):
    return str(tree) if isinstance(tree, int) else f"( {as_text(tree[1])} {tree[0]} {as_text(tree[2])} )"


def shuffled(tree, rng):
    """The same expression, with commutativity and associativity applied at random."""
    if isinstance(tree, int):
        return tree
    operator, left, right = tree[0], shuffled(tree[1], rng), shuffled(tree[2], rng)
    if operator in "+*" and rng.random() < 0.5:
        left, right = right, left
    inverse = {"+": "-", "*": "/"}.get(operator)
    if inverse and isinstance(right, tuple) and right[0] in (operator, inverse):  # a + (b - c) = (a + b) - c
        return (right[0], (operator, left, right[1]), right[2])
    if operator in "-/" and isinstance(right, tuple) and right[0] == {"-": "+", "/": "*"}[operator]:
        return (operator, (operator, left, right[1]), right[2])  # a - (b + c) = (a - b) - c
    return (operator, left, right)


@given(trees([2, 3, 5, 7, 11]))
def test_canonical_text_reads_back_with_the_same_value_and_stays_as_it_is(tree):
    assume(expressions.value(tree) is not None)  # 7 / (11 / 0) has none, 7 * 0 / 11 has
    text = expressions.canonical(tree)
    again = expressions.parse(text)
    assert expressions.value(again) == expressions.value(tree)
    assert expressions.canonical(again) == text


@given(trees([2, 3, 5, 7, 11]), st.integers(0, 10**6))
def test_commuting_and_regrouping_does_not_change_the_canonical_text(tree, seed):
    assert expressions.canonical(shuffled(tree, random.Random(seed))) == expressions.canonical(tree)


@given(trees([2, 3, 5, 7]))
def test_parsing_follows_the_parentheses(tree):
    assert expressions.parse(as_text(tree)) == tree


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("8 + 5 + 6", "5 + 6 + 8"),
        ("2 * (8 + 5)", "( 5 + 8 ) * 2"),
        ("10 - 3*2", "10 - 2 * 3"),
        ("10+3*2", "2 * 3 + 10"),
        ("10 - (2 + 3)", "10 - 2 - 3"),
        ("10 - (3 - 2)", "2 + 10 - 3"),
        ("6 / (10 - 8)", "6 / ( 10 - 8 )"),
        ("(10 - 8) / 6", "( 10 - 8 ) / 6"),
        ("6 / (3 / 4)", "4 * 6 / 3"),
        ("8 / 2 / 2", "8 / 2 / 2"),
    ],
)
def test_canonical_texts(text, canonical):
    assert expressions.canonical(expressions.parse(text)) == canonical


@pytest.mark.parametrize("pair", [("2 * (3 + 4)", "2 * 3 + 2 * 4"), ("8 - 5", "5 - 8"), ("6 / 2", "2 / 6")])
def test_what_only_algebra_makes_equal_stays_distinct(pair):
    first, second = (expressions.canonical(expressions.parse(text)) for text in pair)
    assert first != second


def test_values_are_exact():
    assert expressions.value(expressions.parse("1 / 3 + 1 / 6")) == Fraction(1, 2)
    assert expressions.value(expressions.parse("1 / (2 - 2)")) is None
    assert expressions.value(expressions.parse("3 + 1 / (2 - 2)")) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "+", "5 +", "+ 5", "5 5", "( 5", "5 )", "()", "5 ** 2", "5 // 2", "5 % 2", "5, 3", "5 + 3;"),
        *("-5", "05", "12345", "1.5", "1e9", "0x10", "1_0", "5\n+ 3", "5\t+ 3", "abs(5)", "__import__('os')"),
        *("\u0663 + 5", "1\u0663 + 5", "\uff15 + 3", "5\uff15 + 3", "\u00b2", "5 \u2212 3"),  # Unicode digits, minus
    ],
)
def test_what_is_no_expression_has_no_tree(text):
    assert expressions.parse(text) is None


def test_nesting_and_length_are_bounded():
    assert expressions.parse("(" * 16 + "5" + ")" * 16) == 5
    assert expressions.parse("(" * 17 + "5" + ")" * 17) is None
    assert expressions.parse(" + ".join(["1"] * 64)) is not None  # 253 characters
    assert expressions.parse(" + ".join(["1"] * 65)) is None
