"""A tokenizer.json is a small program: what of it could take all time or memory is refused here, before it is run.

The `tokenizers` library believes ids, lets a chain of replacements double a text with each step, and backtracks.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator
from typing import Any

_IDS = 1 << 20  # a vocabulary may have gaps: ids up to here, or twice as many as it has tokens
_GROWTH = 1 << 10  # times that normalizing may lengthen a text; NFKC alone can by 18
_PREPENDED = 100  # characters that are put before a text
_PATTERN = 10_000  # characters of a regular expression
# Steps that may lengthen a text, by how much at most.
_LONGER = {"NFD": 4, "NFKD": 18, "NFKC": 18, "Lowercase": 3, "ByteLevel": 4, "BertNormalizer": 4}


def check_definition(definition: Any) -> None:
    """Raises ValueError, in one line, for what is no tokenizer.json, or could take all time or memory."""
    if not isinstance(definition, dict) or not isinstance(definition.get("model"), dict):
        raise ValueError("no tokenizer: it has no `model`")
    _check_ids(definition)
    growth = 1
    for step in steps(definition, "normalizer"):
        growth *= _growth(step)
        if growth > _GROWTH:
            raise ValueError(f"its normalizer could make a text {growth} times as long")
    for part in ("normalizer", "pre_tokenizer"):
        for step in steps(definition, part):
            pattern = step.get("pattern")
            if isinstance(pattern, dict) and "Regex" in pattern:
                check_pattern(pattern["Regex"])


def steps(definition: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer, decoder or post-processor, those of a Sequence in a Sequence too."""
    found, waiting = [], [definition.get(part)]
    while waiting:
        step = waiting.pop()
        if step is None:
            continue
        if not isinstance(step, dict):
            raise ValueError(f"its {part} has a step that is no JSON object")
        if step.get("type") != "Sequence":
            found.append(step)
            continue
        children = [value for name, value in step.items() if name != "type"]
        if len(children) != 1 or not isinstance(children[0], list):
            raise ValueError(f"its {part} has a Sequence without its steps")
        waiting += reversed(children[0])
    return found


def _check_ids(definition: dict[str, Any]) -> None:
    vocabulary, added = definition["model"].get("vocab", {}), definition.get("added_tokens") or []
    if not isinstance(vocabulary, dict | list):
        raise ValueError("its vocabulary is no JSON object")
    if not isinstance(added, list) or not all(isinstance(one, dict) and "content" in one for one in added):
        raise ValueError("its added_tokens are no list of tokens")
    ids = [(one["content"], one.get("id")) for one in added]
    ids += vocabulary.items() if isinstance(vocabulary, dict) else []
    most = max(_IDS, 2 * len(ids))
    for token, number in ids:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < most:
            raise ValueError(f"token {str(token)[:50]!r} has the id {str(number)[:50]}, of {len(ids)} tokens")


def _growth(step: dict[str, Any]) -> int:
    """How many times as long a step can make a text, rounded up."""
    kind, content = step.get("type"), step.get("content")
    if kind == "Replace" and isinstance(content, str) and isinstance(step.get("pattern"), dict):
        if "Regex" in step["pattern"]:  # which may match nothing, at each place
            return 1 + len(content)
        replaced = step["pattern"].get("String")
        if not isinstance(replaced, str) or not replaced:
            raise ValueError("its normalizer replaces nothing by something")
        return max(1, -(-len(content) // len(replaced)))
    if kind == "Prepend" and len(str(step.get("prepend"))) > _PREPENDED:
        raise ValueError(f"its normalizer puts {len(str(step['prepend']))} characters before a text")
    if kind == "Precompiled":
        try:
            return longest_of_charsmap(base64.b64decode(step.get("precompiled_charsmap") or ""))
        except (binascii.Error, TypeError, ValueError):
            raise ValueError("its normalizer has a precompiled_charsmap that is none") from None
    return _LONGER.get(str(kind), 1)


def longest_of_charsmap(charsmap: bytes) -> int:
    """Bytes of the longest text that one of SentencePiece's normalizers puts in the place of a character."""
    trie = int.from_bytes(charsmap[:4], "little")  # its size; the texts follow, each ended by a 0
    return max(1, *map(len, charsmap[4 + trie :].split(b"\0")))


def check_pattern(pattern: Any) -> None:
    """Raises ValueError for a regular expression whose time could double with each character.

    That is one that repeats, without an end, a group which itself has repetitions or alternatives: `(a+)+`, `(a|aa)*`.
    """
    if not isinstance(pattern, str) or len(pattern) > _PATTERN:
        raise ValueError("it has a regular expression that is none, or too long")
    open_groups, varies, place = [], False, 0  # `varies`: whether the group that is open can match in several ways
    while place < len(pattern):
        character, closed = pattern[place], None
        if character == "\\":
            place += 1
        elif character == "[":
            place = _end_of_class(pattern, place)
        elif character == "(":
            open_groups.append(varies)
            varies = False
            while pattern[place + 1 : place + 2] in ("?", ":", "=", "!", "<", ">"):  # the kind of the group
                place += 1
        elif character == "|":
            varies = True
        elif character == ")" and open_groups:
            closed, varies = varies, open_groups.pop() or varies
        repeated, length = _repetition(pattern, place + 1)
        if closed and repeated > 1:
            raise ValueError(f"its regular expression {pattern[:100]!r} repeats what repeats: it could take forever")
        varies = varies or repeated != 0
        place += 1 + length


def _repetition(pattern: str, place: int) -> tuple[int, int]:
    """What stands at a place: 0 for no repetition, 1 for an option (`?`), 2 for more; and how long it is."""
    rest = pattern[place : place + 1]
    if rest == "?":
        return 1, 1
    if rest in ("*", "+") and rest:
        return 2, 1
    end = pattern.find("}", place) if rest == "{" else -1
    least, comma, most = pattern[place + 1 : end].partition(",") if end > 0 else ("", "", "")
    if not (least + most).isdigit():
        return 0, 0
    varies = comma and least != most
    return (2 if varies and most != "1" else 0), end + 1 - place


def _end_of_class(pattern: str, place: int) -> int:
    """The place of the bracket that closes the class of characters at `place`; one may stand in another."""
    depth = 0
    while place < len(pattern):
        if pattern[place] == "\\":
            place += 1
        elif pattern[place] == "[":
            depth += 1
        elif pattern[place] == "]":
            depth -= 1
            if not depth:
                break
        place += 1
    return place


@contextlib.contextmanager
def panics_refused() -> Iterator[None]:
    """What the library panics at is a ValueError: its own exception is none that `except Exception` knows."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the tokenizers library fails at it ({reason})") from None
