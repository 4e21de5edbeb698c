r"""Numbers as people and datasets write them, read exactly, and the units behind them.

Texts are as `answer_text.clean` leaves them, on one line. A number is an integer, a decimal (also a repeating one), a
fraction, a mixed number, a power of ten times one of these, or a number in another base, as text or in LaTeX. Nothing
is computed beyond that: `2+3` is no number here.
"""

import re
from fractions import Fraction

MAX_EXPONENT = 2000  # of ten, either sign; beyond it a text is no number

_GROUPS = r"\d{1,3}(?:(?P<group>[, ])\d{3}(?:(?P=group)\d{3})*)?(?!\d)|\d+"  # 1,234 and 1 234 too
_DECIMAL = rf"(?=[.\d])(?P<whole>{_GROUPS})?(?:\.(?P<after>\d*))?"
_REPEATED = r"(?:\\(?:overline|bar|dot)\s*(?:\{(?P<repeated>\d+)\}|(?P<digit>\d))|\((?P<bracketed>\d+)\))"
_FORMS = [
    re.compile(form, re.ASCII)
    for form in (
        rf"{_DECIMAL}(?:\s*[*x]\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<power>[+-]?\s*\d+)\s*\}}?)?",
        r"(?P<ten>10)\s*(?:\^|\*\*)\s*\{?\s*(?P<power>[+-]?\s*\d+)\s*\}?",
        rf"(?P<whole>\d*)\.(?P<after>\d*){_REPEATED}",
        r"(?:(?P<whole>\d+)\s*)?\\frac\s*\{\s*(?P<above>[+-]?\d+)\s*\}\s*\{\s*(?P<below>[+-]?\d+)\s*\}",
        r"(?:(?P<whole>\d+)\s+(?:and\s+)?)?(?P<above>\d+)\s*/\s*(?P<below>\d+)",
    )
]
_SCIENTIFIC = re.compile(rf"{_DECIMAL}[eE](?P<power>[+-]?\d+)", re.ASCII)
# Such as 2e-1, which may be Euler's number less something: programs write two digits of an exponent with a sign.
_AMBIGUOUS = re.compile(r"(?:[2-9]|\d\d+)e[+-]\d", re.ASCII)
_EULER = re.compile(r"(?<![A-Za-z\\])e(?![A-Za-z])")
_BASED = re.compile(
    r"\(?([0-9A-Z]+(?:\.[0-9A-Z]+)?|[0-9a-f]+(?=\)?_\s*\{?\s*\(?16))\)?"
    r"(?:_\s*(?:\{\s*\(?(\w+)\)?\s*\}|(\d))|\s*\(?\s*(?:in )?base[ -]?(\w+)\)?)"
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")


def says_euler(text: str) -> bool:
    """Whether the letter e in a text is Euler's number, and no part of a number in e-notation."""
    numbers = re.sub(rf"(?!{_AMBIGUOUS.pattern}(?!\d)){_SCIENTIFIC.pattern}", "", text, flags=re.ASCII)
    return bool(_EULER.search(numbers)) or bool(_AMBIGUOUS.search(numbers))


def number(text: str, euler: bool = False) -> Fraction | None:
    """The value of a number; None for all else.

    Args:
        euler: whether what could be e-notation or Euler's number (2e-1) is the latter.
    """
    text = _TEXT.sub(r"\1", text).strip()
    if text.startswith("(") and text.endswith(")") and "," not in text:  # (1,234) is a pair
        text = text[1:-1].strip()
    sign = -1 if text.startswith("-") else 1
    text = text[1:].lstrip() if text[:1] in ("+", "-") else text
    value = _unsigned(text, euler)
    return None if value is None else sign * value


def _unsigned(text: str, euler: bool) -> Fraction | None:
    if match := _BASED.fullmatch(text):
        return _in_base(match[1], match[2] or match[3] or match[4])
    if match := _SCIENTIFIC.fullmatch(text):
        return None if euler and _AMBIGUOUS.fullmatch(text) else _decimal(match.groupdict())
    for form in _FORMS:
        if match := form.fullmatch(text):
            groups = match.groupdict()
            return _fraction(groups) if "above" in groups else _decimal(groups)
    return None


def _decimal(groups: dict[str, str | None]) -> Fraction | None:
    whole = re.sub(r"\D", "", (groups.get("ten") and "1") or groups.get("whole") or "")
    after, repeated = groups.get("after") or "", next(filter(None, map(groups.get, _REPEATS)), "")
    if not whole + after + repeated:
        return None
    value = Fraction(int(whole + after or "0"), 10 ** len(after))
    if repeated:
        value += Fraction(int(repeated), 10 ** len(after) * (10 ** len(repeated) - 1))
    power = int((groups.get("power") or "0").replace(" ", ""))
    return value * Fraction(10) ** power if abs(power) <= MAX_EXPONENT else None


_REPEATS = ("repeated", "digit", "bracketed")


def _fraction(groups: dict[str, str | None]) -> Fraction | None:
    whole, above, below = groups["whole"], int(groups["above"] or ""), int(groups["below"] or "")
    if not below or (whole and not 0 < above < below):  # a whole number before another fraction is multiplied
        return None
    return Fraction(above, below) + int(whole or 0)


def _in_base(digits: str, said: str) -> Fraction | None:
    base = _BASES.get(said.lower(), int(said) if said.isascii() and said.isdigit() and len(said) < 3 else 0)
    whole, _, after = digits.partition(".")
    if (
        not 2 <= base <= 36
        or (digits.isalpha() and (base < 11 or len(digits) == 1))
        or any(int(digit, 36) >= base for digit in whole + after)
    ):
        return None  # A_1 is a symbol
    return Fraction(int(whole + after, base), base ** len(after))


# -------------------------------------------------------------------------------------------------------------- units

_UNITS = {
    name: unit
    for unit, names in {
        "m": "meter metre",
        "cm": "centimeter centimetre",
        "mm": "millimeter millimetre",
        "km": "kilometer kilometre",
        "in": "inch",
        "ft": "foot feet",
        "yd": "yard",
        "mi": "mile",
        "g": "gram gm",
        "kg": "kilogram",
        "lb": "pound",
        "oz": "ounce",
        "l": "liter litre",
        "ml": "milliliter millilitre",
        "s": "second sec",
        "min": "minute",
        "h": "hour hr",
        "yr": "year",
        "mi/h": "mph",
        "km/h": "kph kmh",
        "degree": "deg \N{DEGREE SIGN}",
        "%": "percent pct percentage",
        "dollar": "$ usd buck",
        "euro": "\N{EURO SIGN} eur",
        "pound sterling": "\N{POUND SIGN} gbp",
        "yen": "\N{YEN SIGN}",
        "rupee": "\N{INDIAN RUPEE SIGN}",
        "cent": "\N{CENT SIGN}",
        "unit": "units",
    }.items()
    for name in (unit, *names.split())
}
_MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}
# Words after a number that are no unit: what they say changes the number, or denies it.
_NO_UNITS = re.compile(
    r"\b(?:a|and|are|around|at|but|dozen|else|factorial|fifths|for|fourths?|half|halves|if|is|isn|less|maybe|minus|mod"
    r"|modulo|more|no|not|of|on|or|over|plus|quarters?|score|than|thirds?|times|to|wrong)\b",
    re.IGNORECASE,
)
_CURRENCY = re.compile(r"([+-]?)\s*(?:US\s*)?\\?([$\u20ac\u00a3\u00a5\u20b9]|USD\b|EUR\b|GBP\b)\s*")
_TRAILING = re.compile(
    r"(?P<body>.*?)\s*"
    r"(?P<unit>%|\N{DEGREE SIGN}|\\?\$|[\u20ac\u00a3\u00a5\u20b9\u00a2]|"
    r"\\text\s*\{[^{}]+\}|(?P<letters>(?:\s|(?<=[\d}]))[A-Za-z][A-Za-z./' -]*))"
    r"(?:\s*\^\s*\{?\s*(?P<power>[23])\s*\}?)?",
    re.DOTALL,
)


_ANGLE = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")


def unit(text: str) -> str | None:
    """The one name of a unit, or of what is counted; None for words that are neither."""
    words = re.sub(r"\bper\b|/", " / ", _TEXT.sub(r"\1", text).replace("-", " ").replace("\\$", "$")).split()
    words = [word.rstrip(".") for word in words]
    if not 1 <= len(words) <= 6 or _NO_UNITS.search(" ".join(words)) or re.search(r"\d", text):
        return None
    power = next((str(_POWERS[word]) for word in words if word in _POWERS), "")
    words = [_singular(word) for word in words if word not in _POWERS]
    return " ".join(words).replace(" / ", "/") + power if words else None


def _singular(word: str) -> str:
    for name in (word, word.lower(), word.lower().removesuffix("s"), word.lower().removesuffix("es")):
        if name in _UNITS:
            return _UNITS[name]
    return word.lower().removesuffix("s") if len(word) > 3 else word


def with_unit(text: str, euler: bool = False) -> tuple[str, str | None]:
    """(what stands before a unit, the unit); a text without a unit as it is, with None.

    A sign of currency before a number is one too. Plain letters may as well be variables: behind a number a noun is a
    unit, behind all else a known unit alone.
    """
    if match := _CURRENCY.match(text):
        return with_unit(match[1] + text[match.end() :], euler)[0], _UNITS[match[2].lower()]
    match = None if number(text, euler) is not None else _TRAILING.fullmatch(text)
    if match is None or not match["body"]:
        return text, None
    body, words = match["body"], match["unit"]
    name = unit(words)
    if name is None:
        return text, None
    if name == "degree" and _ANGLE.search(body):
        return text, None
    if match["letters"]:
        is_known = all(word in _KNOWN for word in re.split(r"[ /]", name.rstrip("23")))
        is_apart, is_short = words[0].isspace(), len(words.strip()) == 1
        if number(body, euler) is None:
            is_unit = is_known and is_apart and not is_short
        else:
            is_unit = (is_known and (is_apart or not is_short)) or (is_apart and len(words.split()[0]) > 2)
        if not is_unit:
            return text, None
    return body, name + (match["power"] or "")


_KNOWN = frozenset(re.split(r"[ /]", " ".join(_UNITS.values())))


def multiplied(text: str) -> str:
    """`5 million` as `5*10^{6}`, with what follows it; all else as it is."""
    match = _MULTIPLE.match(text)
    return f"{match[1]}*10^{{{_MULTIPLES[match[2]]}}} {match[3]}" if match else text


_MULTIPLE = re.compile(
    rf"(\\?\$?[\d.,]+)\s*(?:\\text\s*\{{\s*)?({'|'.join(_MULTIPLES)})\b\s*\}}?(.*)", re.ASCII | re.DOTALL
)
