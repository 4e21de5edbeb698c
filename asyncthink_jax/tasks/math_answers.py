"""What counts in an answer to a problem of mathematics, and whether two of them are equal.

Equal texts and numbers are seen at once; the rest is asked of math-verify, in a process of its own (`math_grader.py`).
"""

import functools
import re
from collections.abc import Sequence
from fractions import Fraction

from asyncthink_jax.tasks.math_grader import Grader

MAX_CHARACTERS = 1000  # of what counts in an answer; a longer one is wrong and not looked at

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_PREFIX = re.compile(r"(?:the )?(?:final |correct )?answer(?: is\b|:| =)[: ]*", re.IGNORECASE)
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_ONE_FORMULA = re.compile(r"[^$]*(?<!\\)\$([^$]+)(?<!\\)\$[^$]*")
# What sympy's LaTeX doesn't know, in its words.
_CHARACTERS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{FRACTION SLASH}": "/",
        "\N{NO-BREAK SPACE}": " ",
        "\N{SUPERSCRIPT TWO}": "^2",
        "\N{SUPERSCRIPT THREE}": "^3",
        "\N{DEGREE SIGN}": r"^\circ",
        "\N{INFINITY}": r"\infty",
    }
)
_ROOT = re.compile(r"√\s*(\d+|\w)?")
_PI = re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])")
_WHOLE = r"\d{1,3}(?:(?:,|\{,\}|\\,|\\!)\d{3})+|\d+"  # 1,234 and 1{,}234 too
_DECIMAL = re.compile(rf"([+-]?)\s*(?=[.\d])({_WHOLE})?(?:\.(\d+))?", re.ASCII)
_FRACTION = re.compile(r"([+-]?)\s*(?:\\[dt]?frac\s*(?:\{(\d+)\}\s*\{(\d+)\}|(\d)(\d))|(\d+)\s*/\s*(\d+))", re.ASCII)


def final(answer: str) -> str | None:
    """What counts of an answer: what its last box holds, or its only formula, or all of it. None if that is too long.

    A sentence around it doesn't count as an answer, so that none can be guessed by naming many; but "the answer is" and
    a unit in words are no matter, nor is bold type, nor reasoning before `####`, behind which some datasets have it.
    """
    if len(answer) > 64 * MAX_CHARACTERS:
        return None
    boxes = list(_BOX.finditer(answer))
    text = _closed(answer, boxes[-1].end()) if boxes else answer.rsplit("####", 1)[-1]
    text = _BOLD.sub(r"\1", text).strip().removesuffix(".")
    text = text[match.end() :] if (match := _PREFIX.match(text)) else text
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        if text == opening + inner + closing and opening not in inner:
            text = inner
    if match := _ONE_FORMULA.fullmatch(text):
        text = match[1]
    text = " ".join(text.translate(_CHARACTERS).split())
    if len(text) > MAX_CHARACTERS:
        return None
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1]}}}" if match[1] else r"\sqrt", text)
    return _PI.sub(r"\\pi", text)


def _closed(text: str, start: int) -> str:
    """From `start` to the brace that closes what was opened before; to the end, if none does."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return text[start:]


def number(text: str) -> Fraction | None:
    """The value of an integer, a decimal number or a plain fraction, as text or in LaTeX; None for all else."""
    if match := _DECIMAL.fullmatch(text):
        sign, whole, after = (group or "" for group in match.groups())
        value = Fraction(int(re.sub(r"\D", "", whole) + after), 10 ** len(after))
    elif match := _FRACTION.fullmatch(text):
        sign, *parts = match.groups()
        above, below = (int(part) for part in parts if part is not None)
        if not below:
            return None
        value = Fraction(above, below)
    else:
        return None
    return -value if sign == "-" else value


def equal(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """For each pair of a known answer and another one, both as `final` has them: whether they are equal.

    None where that can't be said in time. Raises RuntimeError if math-verify can't be asked (`math_grader.py:Grader`).
    """
    known = [_at_once(gold, answer) for gold, answer in pairs]
    asked = [pair for pair, verdict in zip(pairs, known, strict=True) if verdict is None]
    verdicts = iter(_grader().equal(asked) if asked else ())
    return [next(verdicts) if verdict is None else verdict for verdict in known]


def _at_once(gold: str, answer: str) -> bool | None:
    """The verdict on what needs no algebra: equal texts, equal numbers, two whole numbers; None = not known."""
    if gold == answer:
        return True
    if not answer:
        return False
    values = number(gold), number(answer)
    if values[0] is None or values[1] is None:
        return None
    if values[0] == values[1]:
        return True
    return False if values[0].denominator == values[1].denominator == 1 else None


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
