"""Text of others on a terminal: nothing in it moves, hides or reorders what stands around it, and it has an end."""

from __future__ import annotations

import contextlib
import re
import sys
import unicodedata

MOST = 2000  # characters of a line
_TAIL = 400  # of these, what stands at the end of a longer line, where the remedy often is
_BREAKS = re.compile(r"\s*[\n\r\t\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def harmless(text: object, most: int = MOST) -> str:
    r"""Text of a file, a model or a server as one line of at most `most` characters.

    Line breaks become a space. Control characters, those that reorder text, and halves of a surrogate pair are escaped
    (`\x1b`, `\u202e`, `\ud800`).
    """
    line = str(text)
    if len(line) > 4 * most:  # each character is looked at, and there may be millions
        line = line[: 2 * most] + line[-2 * most :]
    line = "".join(one if is_plain(one) else escaped(one) for one in _BREAKS.sub(" ", line.strip()))
    tail = min(_TAIL, most // 5)
    return line if len(line) <= most else f"{line[: most - tail - 3]} … {line[-tail:]}"


def reason(error: BaseException, most: int = 200) -> str:
    """What an error says, as `harmless` has it; its type where it says nothing."""
    return harmless(error, most) or type(error).__name__


def harmless_lines(text: str) -> str:
    """As `harmless`, of any length; lines stay lines."""
    return "\n".join(harmless(line, max(MOST, len(line))) for line in text.splitlines())


def is_plain(character: str) -> bool:
    """Whether a character can be shown as it is."""
    # Format characters reorder or hide what stands around them, but emoji and some scripts are joined by these two.
    return character.isprintable() or character in "\u200c\u200d" or unicodedata.category(character) == "Zs"


def escaped(character: str) -> str:
    """As Python writes it within a text."""
    return ascii(character)[1:-1]


def complain(text: object) -> None:
    """One line on stderr, made harmless. Where nobody can read it, nothing happens."""
    if sys.stderr is not None:  # closed at the start
        with contextlib.suppress(OSError):  # a full disk, say: what goes on is worth more than the line
            print(harmless(text), file=sys.stderr, flush=True)
