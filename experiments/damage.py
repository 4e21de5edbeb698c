"""Damage for the sweeps of faults.py: bytes cut off and flipped, and well-formed files with hostile values in them."""

from __future__ import annotations

import copy
import functools
import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# What a file that others made may say in place of any value.
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**32 - 1, 2**63, 10**9, 10**400, 0.5, 1e308, float("inf"), float("nan")),
    *(
        "",
        " ",
        "0",
        "4096",
        "x" * 100_000,
        "\x1b[2J\x1b]0;x\x07",
        "\u202e",
        "\ud800",
        "../../x",
        "/etc/passwd",
        "{{",
        "{%",
    ),
    *("{% for i in range(10**9) %}x{% endfor %}", "(a+)+$", "[/red]", "NaN", "1e999"),
    *([], {}, [[]], [None], {"": None}, ["a"] * 10_000),
)
WORDS = tuple(
    struct.pack(kind, value)
    for kind, values in (("<I", (0, 1, 2**16, 2**31, 2**32 - 1)), ("<Q", (0, 1, 2**32, 2**40, 2**63, 2**64 - 1)))
    for value in values
)


def cuts(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """(description, damaged file): cut at places spread over the whole file, 0 among them."""
    for i in range(min(count, len(data))):
        place = i * len(data) // min(count, len(data))
        yield f"cut at byte {place}", data[:place]


def flips(data: bytes, count: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """The same with one byte changed, at random places."""
    for place in sorted(rng.sample(range(len(data)), min(count, len(data)))):
        bit = 1 << rng.randrange(8)
        yield f"bit {bit} of byte {place} flipped", data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def damages(workdir: Path, places: int, seed: int) -> Iterator[tuple[Path, str, bytes]]:
    """(file, description, damaged bytes): `places` cuts and `places` flips of each kind of file of a run.

    The files of a kind, such as the arrays of a checkpoint, take turns.
    """
    kinds: dict[str, list[Path]] = {}
    for file in sorted(path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file()):
        kinds.setdefault(_kind(file), []).append(file)
    for kind, files in kinds.items():
        rng = random.Random(f"{seed} {kind}")
        for change in (cuts, functools.partial(flips, rng=rng)):
            for n, file in enumerate(files):
                share = len(range(n, places, len(files)))
                for what, data in change((workdir / file).read_bytes(), share):
                    yield file, what, data


def _kind(file: Path) -> str:
    """A file's path without the parts that differ between steps or machines."""
    if file.suffix == ".png" or "tfevents" in file.name:
        return f"{file.parent}/*"
    return re.sub(r"\b(\d+|[0-9a-f]{32}|problems-\w+)(?=[/.]|$)", "*", file.as_posix())


def mutated(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One to three changes to a file, so that another program could almost have written it."""
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        change = rng.choice(_CHANGES if _as_json(data) is not None else _BINARY)
        what, data = change(data, rng)
        done.append(what)
    return ", ".join(done), data


def _as_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _hostile_value(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    tree = copy.deepcopy(_as_json(data))
    places = list(_places(tree))
    if not places:
        return "emptied", b""
    holder, key, path = rng.choice(places)
    value = rng.choice(HOSTILE)
    holder[key] = value
    return f"{path} = {repr(value)[:40]}", _dump(tree)


def _without_value(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    tree = copy.deepcopy(_as_json(data))
    places = list(_places(tree))
    if not places:
        return "emptied", b""
    holder, key, path = rng.choice(places)
    del holder[key]
    return f"no {path}", _dump(tree)


def _nested(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    depth = rng.choice((50, 2_000, 200_000))
    return f"nested {depth} deep", b"[" * depth + data + b"]" * depth


def _long_number(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
    if not digits:
        return "nothing", data
    place = rng.choice(digits)
    return f"5,000 digits at byte {place}", data[:place] + b"9" * 5_000 + data[place + 1 :]


def _places(tree: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """(container, key, dotted path) of the values of a JSON tree; only the first and last few of a long list."""
    items: list[tuple[Any, Any]] = []
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    for key, value in items[:8] + items[-4:] if len(items) > 40 else items:
        name = f"{path}.{key}".lstrip(".")
        yield tree, key, name
        yield from _places(value, name)


def _dump(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=True).encode()


def _cut(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    place = rng.randrange(len(data) + 1)
    return f"cut at byte {place}", data[:place]


def _flipped(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    return next(flips(data, 1, rng), ("nothing", data))


def _inserted(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    place, more = rng.randrange(len(data) + 1), rng.randbytes(rng.choice((1, 4, 100)))
    return f"{len(more)} bytes inserted at {place}", data[:place] + more + data[place:]


def _repeated(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 16, 1000)))
    return f"bytes {start} to {end} twice", data[:end] + data[start:]


def _other_word(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    # Headers are where the counts are.
    place, word = rng.randrange(min(len(data), rng.choice((64, 4096))) + 1), rng.choice(WORDS)
    return f"{int.from_bytes(word, 'little')} at byte {place}", data[:place] + word + data[place + len(word) :]


_BINARY: tuple[Callable[[bytes, random.Random], tuple[str, bytes]], ...] = (
    *(_cut, _flipped, _inserted, _repeated, _other_word, _other_word),
)
_CHANGES = (*([_hostile_value] * 6), _without_value, _without_value, _nested, _long_number, *_BINARY)
