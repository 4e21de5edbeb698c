"""Numbers as the files of others state them: read where what is meant is plain, refused in a line where it isn't.

Programs write a whole number as 4096, 4096.0 or "4096". Nothing else is taken for one: not true, not "4k", not 4096.5.
"""

from __future__ import annotations

import math
from typing import Any

_EXACT = 2**53  # floats up to here are exact, and no size of a model is beyond


def whole(value: Any, what: str, least: int | None = None) -> int:
    """A whole number, at least `least`. `what` names file and field in the ValueError."""
    number = _number(value)
    expected = "a whole number" if least is None else "a whole number above 0" if least == 1 else f"one from {least} on"
    if number is None or abs(number) > _EXACT or number != int(number) or (least is not None and number < least):
        raise ValueError(f"{what} is {_shown(value)}, expected {expected}")
    return int(number)


def positive(value: Any, what: str) -> float:
    """A finite number above 0. `what` names file and field in the ValueError."""
    number = _number(value)
    if number is None or number <= 0:
        raise ValueError(f"{what} is {_shown(value)}, expected a number above 0")
    return float(number)


def flag(value: Any, what: str) -> bool:
    """True or false, and no number or text: programs differ in what they take those for."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {_shown(value)}, expected true or false")
    return value


def token_ids(value: Any, what: str, vocabulary: int) -> list[int]:
    """The token ids that are meant by a number, a list of them, or nothing.

    Ids that no token of the vocabulary has (-1, 2^32 - 1, 2^64 - 1, one beyond its end) are how programs write "unset".
    """
    values = value if isinstance(value, list) else [value]
    known = [one for one in values if one is not None and not (type(one) is int and not 0 <= one < vocabulary)]
    return [token for token in (whole(one, what) for one in known) if 0 <= token < vocabulary]


def _number(value: Any) -> int | float | None:
    """None for what is no finite number."""
    if isinstance(value, str) and len(value) <= 40 and value.isascii() and "_" not in value:
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if abs(value) < 2**64 else None
    return value if math.isfinite(value) else None


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "too large"
    return text if len(text) <= 50 else f"{text[:50]}.."
