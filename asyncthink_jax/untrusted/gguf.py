"""The header of a GGUF file (llama.cpp): its metadata, and where its tensors lie.

By the specification in ggml's docs/gguf.md. The reader of the package `gguf` is not used: it believes the counts in a
file, and makes two arrays of each element.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from asyncthink_jax.untrusted.files import check_file

VERSIONS = (2, 3)
MOST_ENTRIES = 1 << 16  # of the metadata, and tensors: large models have some thousands
MOST_ELEMENTS = (
    1 << 22
)  # of all arrays together: tokens, scores, types and merges of a vocabulary of 262,144 have 1.3 M
_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9  # types of values; the others by their letter in `struct` and NumPy
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A line of the header."""

    name: str
    shape: tuple[int, ...]  # as in the file: the axis whose entries lie side by side first
    kind: int  # GGMLQuantizationType
    start: int  # byte of the file


@dataclasses.dataclass(frozen=True)
class Header:
    """Metadata by key (numbers, bools, texts and lists of these), and the tensors in their order."""

    metadata: dict[str, Any]
    tensors: list[TensorInfo]


def read_header(path: Path) -> Header:
    """Raises FileNotFoundError, or ValueError, in one line that names the file, for one that is broken or cut."""
    check_file(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data).header()
        except ValueError as error:
            raise ValueError(f"{path}: no whole GGUF file: {error}") from None


class _Reader:
    """Reads from the start on. What lies beyond the end of the file is never asked for."""

    def __init__(self, data: mmap.mmap):
        self._data, self._at, self._elements = data, 0, 0

    def header(self) -> Header:
        if self._take(4) != b"GGUF":
            raise ValueError("it doesn't begin with GGUF")
        version = self._number("I")
        if version and version & 0xFFFF == 0:
            raise ValueError("its bytes are in the order of big-endian machines, which is not supported")
        if version not in VERSIONS:
            raise ValueError(
                f"version {version} of the format is unknown here; {' and '.join(map(str, VERSIONS))} are known"
            )
        n_tensors, n_entries = self._number("Q"), self._number("Q")
        if max(n_tensors, n_entries) > MOST_ENTRIES:
            raise ValueError(f"{n_tensors} tensors and {n_entries} entries of metadata, more than {MOST_ENTRIES}")
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = self._text("a key")
            if key in metadata:
                raise ValueError(f"{key} is there twice")
            metadata[key] = self._value(key, self._number("I"))
        described = [self._tensor() for _ in range(n_tensors)]
        if len({tensor.name for tensor in described}) < len(described):
            raise ValueError("two tensors have the same name")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment!r}, no power of two")
        start = -(-self._at // alignment) * alignment
        return Header(metadata, [dataclasses.replace(one, start=start + one.start) for one in described])

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._text(key)
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ValueError(f"{key} has values of the type {kind}, which there is none of")
        of, count = self._number("I"), self._number("Q")
        if of != _STRING and of not in _NUMBERS:
            raise ValueError(f"{key} is an array of values of the type {of}, which is not supported")
        self._elements += count
        if self._elements > MOST_ELEMENTS:
            raise ValueError(f"{key} is an array of {count}, more than {MOST_ELEMENTS} in all")
        if of == _STRING:
            return [self._text(key) for _ in range(count)]
        dtype = np.dtype("<" + _NUMBERS[of])
        return np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()

    def _tensor(self) -> TensorInfo:
        name, n = self._text("the name of a tensor"), self._number("I")
        if n > _DIMENSIONS:
            raise ValueError(f"tensor {name} has {n} dimensions, more than {_DIMENSIONS}")
        shape = tuple(self._number("Q") for _ in range(n))
        if math.prod(shape) >= 1 << 62:
            raise ValueError(f"tensor {name} has the shape {list(shape)}")
        return TensorInfo(name, shape, self._number("I"), self._number("Q"))

    def _text(self, what: str) -> str:
        raw = self._take(self._number("Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what} is not UTF-8") from None

    def _number(self, letter: str) -> Any:
        form = "<" + letter
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise ValueError(f"it ends after {len(self._data)} bytes, within its header")
        self._at, start = end, self._at
        return self._data[start:end]
