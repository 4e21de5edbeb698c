"""JSON that others wrote, and what stands in place of a file.

Python's own parser takes more than JSON, and gives what later breaks elsewhere: numbers that are none (`NaN`,
`Infinity`, 1e999), whole numbers that are no float, brackets that nothing but itself can walk through, halves of
surrogate pairs. All of these are refused here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 1 << 26  # of a JSON file that is read at once; the largest tokenizer.json has half of that
_MOST_BRACKETS = 1 << 21  # in such a file: half a million merges are a list each
_DEPTH = 100  # brackets within brackets
_DIGITS = 300  # of a whole number: any shorter one is a float too
_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html")


def check_file(path: Path) -> None:
    """Raises FileNotFoundError, or ValueError that names the file and says what else stands in its place."""
    try:
        if not path.is_file():
            if path.exists():
                raise ValueError(f"{path} is no file")
            raise FileNotFoundError(f"{path} is missing")
        with open(path, "rb") as file:
            head = file.read(100)
    except PermissionError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    check_head(path, head)


def check_head(name: object, head: bytes) -> None:
    """Raises ValueError, with the file's name, for a file that begins with what stands in place of another one."""
    if not head:
        raise ValueError(f"{name} is empty")
    if head.startswith(_POINTER):
        raise ValueError(f"{name} is a git-lfs pointer, not the file that it stands for: `git lfs pull` fetches that")
    if head.lstrip().lower().startswith(_PAGES):
        raise ValueError(f"{name} is a web page, not the file: a download that went wrong")


def check_inside(path: Path, folder: Path) -> None:
    """Raises ValueError for a link that leads out of the folder: what it leads to would be taken for a part of it.

    A snapshot in the cache of a hub links into the blobs of its repository, and may.
    """
    real, own = path.resolve(), folder.resolve()
    allowed = [own, *([own.parents[1] / "blobs"] if own.parent.name == "snapshots" else [])]
    if not any(real.is_relative_to(one) for one in allowed):
        raise ValueError(f"{path} is a link to {real}, out of its folder: put the file itself there")


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """What a file holds. Raises FileNotFoundError, or ValueError, in one line that names the file, see `parse_json`."""
    check_file(path)
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size} bytes, expected at most {most}")
    content = path.read_bytes()
    if content.count(b"[") + content.count(b"{") > _MOST_BRACKETS:  # an empty list of 3 bytes takes 64 of memory
        raise ValueError(f"{path} has more than {_MOST_BRACKETS} lists and objects")
    try:
        return parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_json(text: str | bytes, strict: bool = True) -> Any:
    """The value of a JSON text in UTF-8, with or without a byte-order mark.

    Not `strict`, numbers may be `NaN` or infinite and texts end within a character: rows of data have such things in
    columns that nobody asks for, and whoever does ask has to look.

    Raises ValueError, in one line, for what is no JSON, and for what could not be used: see above.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        numbers: dict[str, Any] = {"parse_constant": _constant, "parse_float": _float} if strict else {}
        value = json.loads(text.removeprefix("\ufeff"), parse_int=_int, **numbers)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"not JSON that can be read: more than {_DEPTH} brackets within each other") from None
    level = [value]
    for _ in range(_DEPTH):
        level = [part for whole in level if isinstance(whole, dict | list) for part in _parts(whole)]
        if not level:
            break
    else:
        raise ValueError(f"not JSON that can be read: more than {_DEPTH} brackets within each other")
    if strict and "\\u" in text and "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"no Unicode text: {error.object[error.start]!a} is half of a character") from None
    return value


def _parts(whole: dict[str, Any] | list[Any]) -> list[Any]:
    return [part for part in (whole.values() if isinstance(whole, dict) else whole) if isinstance(part, dict | list)]


def _constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is no number")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"not JSON that can be read: {digits[:20]} is too large a number")
    return value


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"not JSON that can be read: a number of {len(digits)} digits")
    return int(digits)
