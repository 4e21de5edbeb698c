r"""Whether two answers in LaTeX are equal, by sympy and without limits: for the process of `math_worker.py` alone.

math-verify's parser reads the LaTeX. Its own comparison rounds to six decimals, so that all tiny numbers are equal, and
takes X for x. Here numbers have to agree in the first 50 digits that they have, with decimals read as the fractions
that they are, expressions at four points, matrices in each element; of two equations one has to be a multiple of the
other, of two inequalities a positive one. Anything else (a set beside an inequality, ..) is left to math-verify.
"""

import functools
from typing import Any

import math_verify
import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.logic import And

DIGITS = 50
_LEAST = sympy.Float(10, DIGITS) ** -DIGITS
_POINTS = ((3, 7), (-11, 5), (19, 13), (-2, 17))
_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_ORDERS = {sympy.StrictGreaterThan, sympy.StrictLessThan, sympy.GreaterThan, sympy.LessThan}


def equal(gold: str, answer: str) -> bool:
    """Raises whatever parser and sympy raise."""
    return _equal(_parsed(gold), _parsed(answer))


@functools.lru_cache(maxsize=16)  # known answers are asked again and again
def _parsed(text: str) -> Any:
    parsed = latex2sympy(text, is_real=True, normalization_config=_NORMALIZATION, conversion_config=_CONVERSION)
    return _exact(parsed) if isinstance(parsed, sympy.Basic | sympy.MatrixBase) else parsed


def _exact(parsed: Any) -> Any:
    """Decimals as fractions, and i as the imaginary unit."""
    if isinstance(parsed, And):
        return And(*map(_exact, parsed._unsorted_args), evaluate=False)
    imaginary = {symbol: sympy.I for symbol in parsed.free_symbols if str(symbol) in ("i", "text{i}", "math{i}")}
    parsed = parsed.subs(imaginary) if imaginary else parsed
    return parsed.replace(lambda part: part.is_Float, lambda part: sympy.Rational(str(part)))


def _equal(gold: Any, answer: Any) -> bool:
    if isinstance(gold, sympy.MatrixBase | sympy.MatrixExpr):
        gold, answer = gold.doit(), answer.doit()
        return gold.shape == answer.shape and all(map(_equal, gold.flat(), answer.flat()))
    if isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr):
        return _same_expression(gold.doit(), answer.doit())
    if isinstance(gold, And) and isinstance(answer, And):
        left = list(answer._unsorted_args)
        for part in gold._unsorted_args:
            same = next((other for other in left if _same_relation(part, other)), None)
            if same is None:
                return False
            left.remove(same)
        return not left
    if isinstance(gold, sympy.Rel) and isinstance(answer, sympy.Rel):
        return _same_relation(gold, answer)
    return math_verify.verify(gold, answer, timeout_seconds=None, allow_set_relation_comp=True)


def _same_expression(gold: Any, answer: Any) -> bool:
    if gold == answer:
        return gold.is_finite is not False or gold in (sympy.oo, -sympy.oo)
    values = [(_value(gold, point), _value(answer, point)) for point in _points(gold, answer)]
    known = [pair for pair in values if None not in pair]
    return 2 * len(known) > len(values) and all(_same_number(*pair) for pair in known)


def _same_relation(gold: Any, answer: Any) -> bool:
    """Whether one is a multiple of the other."""
    ordered = [type(one) in _ORDERS for one in (gold, answer)]
    strict = [type(one) in (sympy.StrictGreaterThan, sympy.StrictLessThan) for one in (gold, answer)]
    if ordered[0] != ordered[1] or strict[0] != strict[1] or (not ordered[0] and type(gold) is not type(answer)):
        return False
    differences = [
        one.gts - one.lts if is_ordered else one.lhs - one.rhs
        for one, is_ordered in zip((gold, answer), ordered, strict=True)
    ]
    if differences[0].free_symbols != differences[1].free_symbols:
        return False
    values = [tuple(_value(one, point) for one in differences) for point in _points(*differences)]
    known = [(one, other) for one, other in values if one is not None and other is not None and other != 0]
    if 2 * len(known) <= len(values):
        return False
    ratios = [one / other for one, other in known]
    if not all(_same_number(ratios[0], ratio) for ratio in ratios):
        return False
    return ratios[0] != 0 and (not ordered[0] or ratios[0].is_positive)


def _points(*expressions: Any) -> list[dict[Any, Any]]:
    """Values for all symbols: the same for the same name, none of which is an integer."""
    symbols = sorted(set().union(*(one.free_symbols for one in expressions)), key=str)
    if not symbols:
        return [{}]
    return [
        {symbol: sympy.Rational(above + 2 * place * below + place, below) for place, symbol in enumerate(symbols)}
        for above, below in _POINTS
    ]


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """The number that an expression is at a point; None if it is none."""
    value = expression.subs(point).doit() if point else expression
    if not value.is_number or value.has(sympy.nan, sympy.zoo):
        return None
    return value


def _same_number(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if (one.is_Rational and other.is_Rational) or one.is_infinite or other.is_infinite:
        return False
    if one.is_rational is not None and other.is_rational is not None and one.is_rational != other.is_rational:
        return False
    size = max(abs(number.evalf(DIGITS)) for number in (one, other))
    apart = abs((one - other).evalf(DIGITS, maxn=4 * DIGITS))  # digits that cancel are made up for
    if apart <= _LEAST * min(size, 1):
        return True
    # A zero that only algebra sees as one has digits, but wrong ones.
    return bool(size < _LEAST and sympy.simplify(one - other) == 0)
