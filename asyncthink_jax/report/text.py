"""Text that a model has written, made fit to be shown: nothing in it moves, hides or reorders what stands around it.

As `asyncthink_jax/shown.py`, but lines stay lines, and a character that is hidden takes one column.
"""

from __future__ import annotations

import re

from asyncthink_jax.shown import is_plain

TAG = re.compile(r"</?(?:FORK|JOIN)-\d+>|</?(?:ANSWER|RETURN)>")


def harmless(text: str) -> str:
    """Text that a terminal or a page only shows: control characters become visible ones, line breaks stay."""
    return "".join(_visible(character) for character in text.expandtabs(4))


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\n" or is_plain(character):
        return character
    if code < 0x20:
        return chr(0x2400 + code)  # the picture of the control character
    return "\u2421" if code == 0x7F else "\ufffd"


def one_line(text: str) -> str:
    """As `harmless`, with every stretch of white space as one space."""
    return harmless(re.sub(r"\s+", " ", text))


def shortened(text: str, characters: int) -> str:
    """The start of a text, with `…` where it is cut."""
    return text if len(text) <= characters else text[: characters - 2].rstrip() + " …"
