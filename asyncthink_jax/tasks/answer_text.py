r"""The one cleaning step that answers go through before a task reads them.

Models write the same answer in many dresses: in a fence or in bold, with a full stop, with full-width digits, with a
minus sign of typography, behind "The answer is:". `clean` takes all of that off and changes no value. What a task's
answer looks like beyond that (LaTeX, expressions, letters, grids) is read by the task.
"""

import re
import unicodedata

# Characters with an ASCII spelling that Unicode's own compatibility mapping (NFKC) does not give.
_SPELLED = {
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u2500\u2501\u2550\ufe58\ufe63",  # hyphens, dashes, minus
    "*": "\u00d7\u00b7\u22c5\u2219\u2217\u30fb\u2022",  # multiplication signs, bullets
    "/": "\u00f7\u2044\u2215",  # division signs
    ":": "\u2236",
    "|": "\u2502\u2503\u2551",
    "+": "".join(map(chr, range(0x250C, 0x254C))),  # corners and crossings of drawn lines
    "\N{DEGREE SIGN}": "\u00ba\u02da",
    ".": "\u3002\uff61",
    ",": "\u3001\uff64\u060c",
    "'": "\u2018\u2019\u02b9\u2032",
    '"': "\u201c\u201d",
    "<=": "\u2264\u2a7d",
    ">=": "\u2265\u2a7e",
    "!=": "\u2260",
}
_CHARACTERS = str.maketrans({character: text for text, characters in _SPELLED.items() for character in characters})
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n", strict=True))
_SCRIPTS = re.compile(f"([{''.join(_RAISED)}]+)|([{''.join(_LOWERED)}]+)")
_SCRIPT_FRACTION = re.compile("([⁰¹²³⁴-⁹]+)[\u2044/]([₀-₉]+)")
_VULGAR = re.compile(r"(\d?)[ \u2009]?([\u00bc-\u00be\u2150-\u215e])")  # a half, and a whole number before it

_FENCE = re.compile(r"```[ \t]*(?:[A-Za-z]\w*[ \t]*(?=\n))?(.*?)```", re.DOTALL)
_CODE = re.compile(r"`([^`\n]*)`")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__")
_ITALIC = re.compile(r"([*_])(?![\s*_])([^*_\n]+)(?<![\s*_])\1")  # only around the whole
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_AROUND = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ('"', '"'), ("'", "'"))
_PREFIX = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my|our) )?(?:(?:final|correct|right|best) )*"
    r"(?:(?:answer|result|solution|value|sum|total)s?|it)"
    r"(?:(?: (?:is|are|must be|should be|would be)|'s)\b|(?= ?[:=]))(?: ?[:=])*\s*",
    re.IGNORECASE,
)


# LaTeX in its shortest spelling, in this order.
_LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\s*", ""),
        (r"\\(?:display|text|script)style(?![A-Za-z])\s*", ""),
        (r"(?<!\\)\\!", ""),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\colon(?![A-Za-z])", ":"),
        # Blanks from their first on: begun at each of a long row of them, the search would take its square of steps.
        (r"(?<!\s)\s*(?:\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z]))", "\N{DEGREE SIGN}"),
        (r"\\%", "%"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\(?:text(?:rm|bf|it|normal)|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{", r"\\text{"),
        (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset"),
    )
]


def clean(text: str, prefix: bool = False) -> str:
    """`text` without what only dresses it; equal answers in other typography become equal texts.

    If there is a box, its content counts, and that of the last of several. Fences, inline code, bold, italics, quotes
    and signs of a formula around the whole go. So do blanks at both ends, trailing punctuation and, unless `prefix`
    says that it stays, a prefix such as "The answer is:". Compatibility characters take their plain form (NFKC); dashes
    and minus signs become `-`, multiplication and division signs `*` and `/`, blanks plain ones, raised and lowered
    digits `^{..}` and `_{..}`, vulgar fractions `1/2`. Control characters and those without width go. LaTeX takes its
    shortest spelling. Line breaks stay.

    Takes time linear in the length, which callers bound. The result has at most 32 times as many characters.
    """
    text = plain(text)
    text = _FENCE.sub(r"\1", text)
    text = _CODE.sub(r"\1", text)
    if boxes := list(_BOX.finditer(text)):
        text = closed(text, boxes[-1].end())
    text = _BOLD.sub(lambda match: match[1] or match[2], text).strip()
    text = match[2] if (match := _ITALIC.fullmatch(text)) else text
    text = _bare(text)
    text = text if prefix else _bare(without_prefix(text))
    if "\\" in text or "{,}" in text or "~" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    return ending(text)


def closed(text: str, start: int) -> str:
    """From `start` to the brace that closes what was opened before; to the end, if none does."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return text[start:]


def _bare(text: str) -> str:
    """`text` without the signs of a formula, or quotes, around the whole."""
    text = ending(text)
    for opening, closing in _AROUND:
        inner = text[len(opening) : -len(closing)]
        if text == opening + inner + closing and opening not in inner:
            return ending(inner)
    return text


def plain(text: str) -> str:
    """`text` in plain characters, see `clean`."""
    if text.isascii():  # nearly all texts, and nothing is left to do but for control characters
        return _printable(text)
    text = _VULGAR.sub(lambda match: f"{match[1]}{' ' if match[1] else ''}{_fraction(match[2])}", text)
    text = _SCRIPT_FRACTION.sub(lambda match: f"{_digits(match[1])}/{_digits(match[2])}", text)
    text = _SCRIPTS.sub(_script, text)
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    return _printable(text)


def without_prefix(text: str) -> str:
    """`text` without "The answer is:" and the like before it."""
    match = _PREFIX.match(text)
    return text[match.end() :] if match else text


def ending(text: str) -> str:
    """`text` without blanks at its ends and punctuation behind it. `!` and `...` stay: they may mean something."""
    text = text.strip()
    return text if text.endswith("...") else text.rstrip(".,;: \t\n\\")


def _fraction(character: str) -> str:
    return unicodedata.normalize("NFKC", character).replace("\u2044", "/")


def _digits(scripts: str) -> str:
    return "".join(_RAISED.get(character) or _LOWERED[character] for character in scripts)


def _script(match: re.Match[str]) -> str:
    digits = _digits(match[0])
    return f"{'^' if match[1] else '_'}{digits if len(digits) == 1 else f'{{{digits}}}'}"


class _Printable(dict[int, int | None]):
    """What becomes of a character that is not printable, worked out when it first comes: a blank, or nothing."""

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        kept = None if category in ("Cc", "Cf") else ord(" ") if category in ("Zs", "Zl", "Zp") else code
        self[code] = kept
        return kept


_PRINTABLE = _Printable({ord("\n"): ord("\n"), **dict.fromkeys(map(ord, "\t\v\f\r\u0085"), ord(" "))})


def _printable(text: str) -> str:
    return text if text.isprintable() else text.translate(_PRINTABLE)
