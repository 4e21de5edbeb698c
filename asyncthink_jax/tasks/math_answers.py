r"""What counts in an answer to a problem of mathematics, and whether two of them are equal.

The known answer decides how another one is read:

    known answer                  the other one is right if
    text, letter of a choice      it is the same text, whatever its type and case
    number, also with a unit      it is the same rational number, exactly; a unit may be left out, but be no other one
    pair, interval, set, list     it has the same brackets and equal parts, in any order in a set or a list
    x = ..                        it is equal to the right-hand side, alone or behind the same symbol
    ratio, time                   it has the same numbers between its colons
    all else                      math-verify reads both, in a process of its own (`math_grader.py`), and they are equal
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from asyncthink_jax.tasks import answer_text, quantities
from asyncthink_jax.tasks.math_grader import Grader
from asyncthink_jax.tasks.quantities import number as number

MAX_CHARACTERS = 1000  # of what counts in an answer; a longer one is wrong and not looked at
MAX_PARTS = 24  # of a set, a list, ..: one with more is equal to the same text alone
MAX_DEPTH = 3  # of sets of pairs of ..

_ONE_FORMULA = re.compile(r"[^$]*(?<!\\)\$([^$]+)(?<!\\)\$[^$]*")
# Signs that stand for LaTeX commands, some of them as words.
_SIGNS = str.maketrans(
    {
        "\N{INFINITY}": r"\infty ",
        "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{EMPTY SET}": r"\emptyset ",
        "\N{UNION}": r"\cup ",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
        "\N{GREEK SMALL LETTER THETA}": r"\theta ",
        "\N{ELEMENT OF}": r"\in ",
        "\N{ALMOST EQUAL TO}": r"\approx ",
    }
)
_ROOT = re.compile(r"√\s*(\d+|\w)?")
_ROOT_OF = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+))")
_PI = re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])")
_INFINITY = re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf)(?![a-zA-Z])", re.IGNORECASE)
_SAID = re.compile(r"(?:=|\\approx(?![A-Za-z]))\s*")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")


def final(answer: str) -> str | None:
    """What counts of an answer: what its last box holds, or its only formula, or all of it. None if that is too long.

    A sentence around it doesn't count as an answer, so that none can be guessed by naming many; but "the answer is" and
    a unit in words are no matter, nor is what only dresses it (`answer_text.py`), nor reasoning before `####`, behind
    which some datasets have it.
    """
    if len(answer) > 64 * MAX_CHARACTERS:
        return None
    text = answer_text.clean(answer.rsplit("####", 1)[-1] if r"\boxed" not in answer else answer)
    if match := _ONE_FORMULA.fullmatch(text):
        text = answer_text.clean(match[1])
    text = " ".join(text.translate(_SIGNS).split())
    if len(text) > MAX_CHARACTERS:
        return None
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1]}}}" if match[1] else "sqrt", text)
    text = _ROOT_OF.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", text).replace("√", r"\sqrt")
    text = re.sub(r"\\text\s*\{\s*([ie])\s*\}", r"\1", text)
    text = _INFINITY.sub(r"\\infty", _PI.sub(r"\\pi", text))
    return text[match.end() :] if (match := _SAID.match(text)) else text


def equal(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """For each pair of a known answer and another one, both as `final` has them: whether they are equal.

    None where that can't be said in time. Raises RuntimeError if math-verify can't be asked (`math_grader.py:Grader`).
    """
    return [_verdict(gold, answer) for gold, answer in pairs]


def majority(answers: Sequence[str]) -> str | None:
    """The first of those answers that most are equal to; what has no `final` text has no vote."""
    texts = [(answer, text) for answer in answers if (text := final(answer))]
    distinct = list(dict.fromkeys(text for _, text in texts))
    # One that math-verify can't even compare with 0 would cost the whole limit with each of the others.
    verdicts = equal([("0", text) for text in distinct])
    bounded = {text for text, verdict in zip(distinct, verdicts, strict=True) if verdict is not None}
    groups: dict[str, list[str]] = {}  # by the text that they are equal to
    for answer, text in texts:
        others = [other for other in groups if text == other or {text, other} <= bounded]
        verdicts = equal([(other, text) for other in others])
        same = next((other for other, verdict in zip(others, verdicts, strict=True) if verdict), text)
        groups.setdefault(same, []).append(answer)
    return max(groups.values(), key=len)[0] if groups else None


@functools.cache
def _grader() -> Grader:
    """Of this process. It starts nothing before it is asked."""
    return Grader()


# ------------------------------------------------------------------------------------------------------------ verdicts


class _OutOfTimeError(Exception):
    pass


def _verdict(gold: str, answer: str) -> bool | None:
    try:
        return _equal(gold.strip(), answer.strip(), quantities.says_euler(gold))
    except _OutOfTimeError:
        return None


def _equal(gold: str, answer: str, euler: bool, depth: int = 0) -> bool:
    """Whether they are equal; raises _OutOfTimeError where the grader can't say it."""
    gold, answer = _peeled(gold), _peeled(answer)
    if not answer or _plainly(gold) == _plainly(answer):
        return bool(answer)
    if (words := _words(gold)) is not None:
        return words == _words(answer, is_gold=False)
    if (clock := _clock(gold)) is not None:
        return _same_clock(clock, _clock(answer))
    if r"\approx" not in gold:
        answer = answer.partition(r"\approx")[0].strip()
    gold, answer = _sides(gold, answer)
    known, other = (_quantity(text, euler) for text in (gold, answer))
    if known is not None and other is not None:
        return _same_quantity(known, other)
    if "=" not in gold and len(sides := _chain(answer)) > 1:  # not x = .., but 1/2 = 0.5, or 2x = ..
        in_bounds = depth < MAX_DEPTH and len(sides) <= MAX_PARTS
        return in_bounds and all(_equal(gold, side, euler, depth + 1) for side in sides)
    if depth < MAX_DEPTH and (verdict := _same_shape(gold, answer, euler, depth)) is not None:
        return verdict
    (gold, one), (answer, two) = (quantities.with_unit(text, euler) for text in (gold, answer))
    if one != two and ("%" in (one, two) or None not in (one, two)):
        return False
    if _UNDONE.search(answer) and not _UNDONE.search(gold):
        return False
    return gold == answer or _asked(_latex(gold, euler), _latex(answer, euler))


def _plainly(text: str) -> str:
    return " ".join(_TEXT.sub(r" \1 ", text).split())


def _asked(gold: str | None, answer: str | None) -> bool:
    if gold is None or answer is None:
        return False
    verdict = _grader().equal([(gold, answer)])[0]
    if verdict is None:
        raise _OutOfTimeError
    return verdict


# ----------------------------------------------------------------------------------------------- words, clocks, numbers

_LETTER = re.compile(r"\(?([A-J])\)?")
_ARTICLE = re.compile(r"(?:an?|the) (?=[a-z])", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z][A-Za-z]*(?:[ .,'-]+(?:[A-Za-z]+|\d+))*\.?")
_TIME = re.compile(r"(\d+(?:\s*:\s*\d+)+)\s*([ap])?\.?\s*(?:m\b\.?)?", re.IGNORECASE)


def _words(text: str, is_gold: bool = True) -> str | None:
    """A letter of a choice, or words, in their plain form; None for what can be mathematics."""
    plain = " ".join(_TEXT.sub(r" \1 ", text).replace("{", "").replace("}", "").split())
    plain = _ARTICLE.sub("", plain)
    if match := _LETTER.fullmatch(plain):
        return match[1]
    if not is_gold:
        return plain.casefold().rstrip(".")
    longest = max(map(len, re.findall("[A-Za-z]+", plain)), default=0)
    is_text = plain != " ".join(text.split()) and longest > 1
    if _WORDS.fullmatch(plain) and (
        is_text or longest > 3 or (" " in plain and longest > 2) or plain.casefold() in ("yes", "no")
    ):
        return plain.casefold().rstrip(".")
    return None


def _clock(text: str) -> tuple[list[int], str] | None:
    """The numbers of a ratio or a time of day, and a or p of the latter."""
    text = re.sub(r"(\d)\s+to\s+(\d)", r"\1:\2", _plainly(text))
    match = _TIME.fullmatch(text) if text.isascii() else None
    return match and ([int(part) for part in match[1].split(":")], (match[2] or "").lower())


def _same_clock(gold: tuple[list[int], str], answer: tuple[list[int], str] | None) -> bool:
    return answer is not None and gold[0] == answer[0] and (answer[1] in ("", gold[1]) or not gold[1])


def _quantity(text: str, euler: bool) -> tuple[Fraction, str | None] | None:
    body, unit = quantities.with_unit(quantities.multiplied(text), euler)
    value = quantities.number(body, euler)
    return None if value is None else (value, unit)


def _same_quantity(gold: tuple[Fraction, str | None], answer: tuple[Fraction, str | None]) -> bool:
    """A percentage is a hundredth of its number, and the number itself where percents were asked for."""
    (value, unit), (other, other_unit) = gold, answer
    if unit == other_unit:
        return value == other
    if unit == "%":
        return other_unit is None and other in (value, value / 100)
    if other_unit == "%":
        return unit is None and (value == other / 100 or (value == other and abs(value) >= 1))
    return value == other and None in (unit, other_unit)


# --------------------------------------------------------------------------------------------------------------- shapes

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_AND = re.compile(r"\s*(?:,\s*)?(?:\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)\s*|\s*;\s*")
_UNION = re.compile(r"(?<=[)\]])\s*U\s*(?=[(\[])")
_SYMBOL = re.compile(r"(?:\\angle\s*)?\\?[A-Za-z]+(?:_(?:\w|\{\w+\}))?(?:\(\w\))?|\((?:[a-z],\s*)+[a-z]\)")
_RELATION = re.compile(r"[<>]|\\(?:leq?|geq?|neq?|lt|gt|leqslant|geqslant)(?![A-Za-z])|!=")


def _same_shape(gold: str, answer: str, euler: bool, depth: int) -> bool | None:
    """The verdict on what has parts; None if the known answer has none."""
    shape, parts = _shape(gold)
    other_shape, other = _shape(answer)
    if shape == "":
        if other_shape == "" or _RELATION.search(gold) or r"\begin" in gold + answer:
            return None
        return False
    if shape in ("()", "[]", "(]", "[)") and _RELATION.search(answer):
        return None
    in_any_order = shape in ("{}", ",", "U")
    if other_shape == "":
        if shape != "{}" or len(parts) != 1:
            return False
        other = [answer]
    elif shape != other_shape and not {shape, other_shape} <= {"{}", ","}:
        return False
    if len(parts) != len(other) or len(parts) > MAX_PARTS:
        return False
    if in_any_order and len({_label(part) for part in parts}) == len(parts) > 1 and not any(map(_label, other)):
        in_any_order = False  # x = 1, y = 2
    if not in_any_order:
        return all(_equal(*pair, euler, depth + 1) for pair in zip(parts, other, strict=True))
    left = list(other)
    for part in parts:
        same = next((one for one in left if _equal(part, one, euler, depth + 1)), None)
        if same is None:
            return False
        left.remove(same)
    return True


def _shape(text: str) -> tuple[str, list[str]]:
    """(brackets, parts): `{}` of a set, `,` of a list, `U` of a union; "" for what has no parts."""
    text = match[1] if (match := _TEXT.fullmatch(text)) else text
    text = _UNION.sub(r"\\cup", _AND.sub(", ", text))
    if text in (r"\{\}", "{}", r"\emptyset", "empty set"):
        return "{}", []
    union = list(_split(text, r"\cup"))
    if len(union) > 1:
        return "U", union
    parts = list(_split(text, ","))
    if len(parts) > 1 and quantities.number(text) is None:
        return ",", parts
    if r"\pm" in text:
        return ",", [text.replace(r"\pm", sign).lstrip("+ ") for sign in "+-"]
    inner = text.replace(r"\{", "{").replace(r"\}", "}")
    if inner[:1] not in _CLOSING or inner[-1:] not in _CLOSING.values() or not _is_one(inner):
        return "", [text]
    parts = list(_split(inner[1:-1], ","))
    if inner[0] == "{" and inner[-1] == "}":
        return "{}", parts
    return (inner[0] + inner[-1], parts) if len(parts) > 1 else ("", [text])


def _peeled(text: str) -> str:
    """`text` without brackets around all of it that hold one part."""
    while text[:1] in ("(", "{") and text[-1:] == _CLOSING[text[0]] and _is_one(text):
        inner = _AND.sub(", ", text[1:-1]).strip()
        if not inner or _LETTER.fullmatch(text) or len(list(_split(inner, ","))) > 1:
            break
        text = inner
    return text


def _is_one(text: str) -> bool:
    """Whether its first bracket is closed by its last character."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def _split(text: str, separator: str) -> Iterator[str]:
    """The parts of a text between separators that are in no brackets."""
    depth, start, place = 0, 0, 0
    while place < len(text):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0 and text.startswith(separator, place):
            yield text[start:place].strip()
            start = place = place + len(separator)
        else:
            place += 1
    yield text[start:].strip()


def _label(text: str) -> str | None:
    """The symbol that an equation gives the value of, on its left-hand side."""
    left, equals, _ = text.replace(r"\in", "=", 1).partition("=")
    return left.strip() if equals and _SYMBOL.fullmatch(left.strip()) else None


def _sides(gold: str, answer: str) -> tuple[str, str]:
    """Both without the symbol whose value they give, unless it is another one."""
    known, other = _equation(gold), _equation(answer)
    known = known and (known[0], known[1].rpartition("=")[2])
    if known and other:
        if known[0] == other[0]:
            return known[1], other[1]
        return gold, answer
    if known:
        return (gold, answer) if "=" in answer or _RELATION.search(answer) else (known[1], answer)
    if other and "=" not in gold and not _RELATION.search(gold):
        return gold, other[1]
    return gold, answer


def _equation(text: str) -> tuple[str, str] | None:
    """(symbol, its value) of x = .., .. = x, x = .. = .. and x in ..; None for all else."""
    if ("=" not in text and r"\in" not in text) or _RELATION.search(text) or r"\begin" in text or _AND.search(text):
        return None
    if len(list(_split(text, ","))) > 1 and quantities.number(text.partition("=")[2].strip()) is None:
        return None
    sides = [side.strip() for side in re.sub(r"\\in(?![A-Za-z])", "=", text).split("=")]
    if len(sides) == 2 and _SYMBOL.fullmatch(sides[1]) and not _SYMBOL.fullmatch(sides[0]):
        sides.reverse()
    return ("".join(sides[0].split()), "=".join(sides[1:])) if len(sides) > 1 and _SYMBOL.fullmatch(sides[0]) else None


def _chain(text: str) -> list[str]:
    """The sides of a chain of equations that is no part of a list; else the text."""
    if _RELATION.search(text) or _AND.search(text) or r"\begin" in text or len(list(_split(text, ","))) > 1:
        return [text]
    return list(_split(text, "="))


# ------------------------------------------------------------------------------------------------ as the grader reads

# What the grader's parser takes for something else: "2 3" for 5, 2' for 2, "0.3.." for 0.3, words for products.
_MISREAD = re.compile(
    r"\d\s+[\d.]|\d\s*['\"]|\.\.|\\l?dots|(?<![\\A-Za-z{])[A-Za-z]{4,}|(?<![\\A-Za-z])[A-Za-z]{3} [A-Za-z]{2}"
)
# What is left to do in it makes a text a problem, not an answer: it may be copied from the question.
_UNDONE = re.compile(r"\\(?:i*int|oint|sum|prod|lim|limsup|liminf)(?![A-Za-z])")

# 1 1/2 within an expression; alone it is a number, see `quantities.py`.
_MIXED = re.compile(r"(?<![\d.,/^_] )(?<![\d.,/^_])(\d+) (\d+) ?/ ?(\d+)(?![\d.])")


def _sum_of_mixed(match: re.Match[str]) -> str:
    whole, above, below = match.groups()
    is_mixed = quantities.number(match[0]) is not None
    return rf"\left({whole}+\frac{{{above}}}{{{below}}}\right)" if is_mixed else match[0]


_IN_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\N{DEGREE SIGN}")
_FOR_LATEX: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(\d)[eE]([+-]?\d+)(?!\d)"), r"\1*10^{\2}"),
    (_MIXED, _sum_of_mixed),
    (_IN_DEGREES, r"{\\left(\\frac{\1\\pi}{180}\\right)}"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\neq "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"_(\d)(?=\s)"), r"_{\1}"),
    (re.compile(r"(?<![\\A-Za-z{])I(?![A-Za-z])"), r"\\text{II}"),  # which it reads as i
    (re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|log|ln|exp)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\log_\{?e\}?(?![A-Za-z])"), r"\\ln "),
    (re.compile(r"\^\(([^()]*)\)"), r"^{\1}"),
]


def _latex(text: str, euler: bool) -> str | None:
    """The text as the grader can read it; None if it would be misread."""
    value = quantities.number(text, euler)
    if value is not None:
        sign, value = "-" if value < 0 else "", abs(value)
        return (
            f"{sign}{value}" if value.denominator == 1 else rf"{sign}\frac{{{value.numerator}}}{{{value.denominator}}}"
        )
    for pattern, replacement in _FOR_LATEX[1 if euler else 0 :]:
        text = pattern.sub(replacement, text)
    return None if _MISREAD.search(text) else text
