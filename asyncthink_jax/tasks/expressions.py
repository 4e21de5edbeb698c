"""Arithmetic expressions: a bounded parser, exact values and one canonical text.

Expressions come out of a language model, so they are hostile until proved otherwise: nothing here evaluates text, and
length, nesting and the size of a number are bounded before any work is done. A tree is an `int`, or a tuple
`(operator, left, right)` with the operator one of `+ - * /`.

Two expressions are *the same solution* when commutativity and associativity turn one into the other. Sums and products
are flattened for that, subtraction being the addition of a negated term and division the multiplication by a
reciprocal: `10 - ( 2 + 3 )`, `10 - 3 - 2` and `10 - 2 - 3` are one solution, and so are `6 * ( 4 / 3 )` and
`4 * 6 / 3`. Nothing is distributed or evaluated: `2 * ( 3 + 4 )` and `2 * 3 + 2 * 4` differ, and so do `2 + 2` and `4`.
"""

import re
from fractions import Fraction
from functools import lru_cache

Tree = int | tuple

MAX_CHARACTERS = 256  # of one expression
MAX_DEPTH = 16  # nested parentheses
_TOKEN = re.compile(r" *(0|[1-9][0-9]{0,3}(?![0-9])|[-+*/()])")  # ASCII digits only, numbers below 10,000


def parse(text: str) -> Tree | None:
    """The tree of one expression, or None for anything that is not one within the bounds. Never raises.

    The language: numbers in ASCII digits (no sign, no leading zero, at most four digits), `+ - * /` with the usual
    precedence and left associativity, round parentheses, spaces between symbols.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.rstrip(" ")
    symbols, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        symbols.append(match[1])
        position = match.end()
    try:
        tree, end = _sum(symbols, 0, 0)
    except (_NotAnExpressionError, IndexError):
        return None
    return tree if end == len(symbols) else None


class _NotAnExpressionError(Exception):
    pass


def _sum(symbols, at, depth):
    tree, at = _product(symbols, at, depth)
    while at < len(symbols) and symbols[at] in ("+", "-"):
        right, end = _product(symbols, at + 1, depth)
        tree, at = (symbols[at], tree, right), end
    return tree, at


def _product(symbols, at, depth):
    tree, at = _atom(symbols, at, depth)
    while at < len(symbols) and symbols[at] in ("*", "/"):
        right, end = _atom(symbols, at + 1, depth)
        tree, at = (symbols[at], tree, right), end
    return tree, at


def _atom(symbols, at, depth):
    symbol = symbols[at]
    if symbol == "(":
        if depth == MAX_DEPTH:
            raise _NotAnExpressionError
        tree, at = _sum(symbols, at + 1, depth + 1)
        if symbols[at] != ")":
            raise _NotAnExpressionError
        return tree, at + 1
    if symbol in ("+", "-", "*", "/", ")"):
        raise _NotAnExpressionError
    return int(symbol), at + 1


def leaves(tree: Tree) -> list[int]:
    """The numbers of an expression, from left to right."""
    return [tree] if isinstance(tree, int) else leaves(tree[1]) + leaves(tree[2])


def value(tree: Tree) -> Fraction | None:
    """The exact value, or None where a division by zero occurs. The caller bounds the number of leaves."""
    if isinstance(tree, int):
        return Fraction(tree)
    operator, left, right = tree[0], value(tree[1]), value(tree[2])
    if left is None or right is None:
        return None
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right if right else None


def canonical(tree: Tree) -> str:
    """The one text of all expressions equal to this one up to commutativity and associativity.

    The expression must have a value: regrouped, one that divides by zero may have one (7 / (11 / 0), 7 * 0 / 11).
    Parentheses are minimal. Added terms come before subtracted ones, factors before divisors; within each group
    compound parts come first (as a search writes them: the pair's result, then the third number), then the numbers in
    ascending order: `5 + 6 + 8`, `( 5 + 8 ) * 2`, `2 * 3 + 10`, `10 - 2 * 3`.
    """
    return _text(tree)[0]


def _text(tree: Tree) -> tuple[str, bool]:
    """Canonical text, and whether it is a sum (which a product has to put in parentheses)."""
    if isinstance(tree, int):
        return str(tree), False
    is_sum = tree[0] in ("+", "-")
    direct: list[tuple] = []
    inverse: list[tuple] = []
    _flatten(tree, is_sum, False, direct, inverse)
    return _join(direct, *(("+", "-") if is_sum else ("*", "/")), inverse), is_sum


def _flatten(tree, is_sum, inverted, direct, inverse):
    operators = ("+", "-") if is_sum else ("*", "/")
    if isinstance(tree, int):
        (inverse if inverted else direct).append((1, tree, str(tree)))
    elif tree[0] in operators:
        _flatten(tree[1], is_sum, inverted, direct, inverse)
        _flatten(tree[2], is_sum, inverted != (tree[0] == operators[1]), direct, inverse)
    else:
        text, part_is_sum = _text(tree)
        (inverse if inverted else direct).append((0, 0, f"( {text} )" if part_is_sum else text))


def _join(direct, operator, inverse_operator, inverse):
    # The leftmost leaf of a sum is always added and that of a product always multiplied, so `direct` is never empty.
    words = f" {operator} ".join(text for _, _, text in sorted(direct))
    return words + "".join(f" {inverse_operator} {text}" for _, _, text in sorted(inverse))


@lru_cache(maxsize=1 << 17)
def canonical_of_three(a: int, first: str, b: int, second: str, c: int, c_first: bool) -> str:
    """`canonical` of `(a first b) second c`, or of `c second (a first b)`: what a search writes at every hit."""
    pair = (first, a, b)
    return canonical((second, c, pair) if c_first else (second, pair, c))
