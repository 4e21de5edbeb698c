"""Rows out of a file of any of the usual kinds, one after the other, whatever is beside them in the file.

    problems.jsonl, problems.json   objects one a line, or in one array; which of the two is seen from the content
    problems.csv, problems.tsv      a header, then a row a record; the delimiter is the header's
    problems.parquet                by pyarrow, of which the columns alone are read that are asked for

Each but Parquet may be compressed by gzip. A small file may say that it holds very much: what is inflated, and what is
read at once, has a bound.
"""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
from etils import epath

from asyncthink_jax.untrusted.files import check_head, parse_json

Row = Mapping[str, Any]
Choose = Callable[[Row], Sequence[str]]

MAX_CELL = 1 << 24  # characters of a cell of a table
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = ".gz"
MOST_AT_ONCE = 1 << 26  # bytes of a line, or of an array that was compressed
MOST_INFLATED = 1 << 30  # bytes of a file that is not larger than a fiftieth of that
MOST_OF_A_GROUP = 1 << 30  # bytes of a row group of Parquet, in the columns that are read
MOST_VALUES = 1 << 24  # of a row group and column; a repeated value takes next to no space
MOST_OF_A_BATCH = 1 << 29  # bytes, if each of its rows had all that the row group has
BATCH = 1024  # rows


def kind(name: str) -> str:
    """Which of KINDS a file is by its name; "" for none."""
    name = name.lower().removesuffix(COMPRESSED)
    return next((one for one in KINDS if name.endswith(one)), "")


def rows(source: str, choose: Choose) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and the row, or the ValueError that says why it can't be read.

    Args:
      source: the file's path, also of a bucket.
      choose: the columns that are needed, a dot before each nested one, of those that there are (nested ones as a
        mapping within the mapping); raises ValueError where one is missing. Only Parquet asks it, and has no others in
        its rows.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file as a whole can't be read; the line names it.
    """
    read = {".jsonl": _json_lines, ".json": _json_text, ".csv": _table, ".tsv": _table}
    with open_file(source) as file:
        try:
            if kind(source) == ".parquet":
                yield from _parquet(source, file, choose)
            else:
                yield from read[kind(source)](source, _Inflated(source, file))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{source} can't be inflated: {error}") from None


def open_file(source: str) -> IO[bytes]:
    """Opened to be read. Raises FileNotFoundError or ValueError, with its name, where something else is there."""
    path = epath.Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{source} is a folder, not a file" if path.is_dir() else f"no file {source}")
    if os.path.exists(source) and not os.path.isfile(source):  # a pipe, say, which has no end to look at
        raise ValueError(f"{source} is no file")
    file = path.open("rb")
    try:
        check_head(source, file.read(100))
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


class _Inflated:
    """The bytes of a file that may be compressed, in lines or whole, up to a bound. Raises ValueError beyond it."""

    def __init__(self, source: str, file: IO[bytes]):
        self.source = source
        is_packed = file.read(2) == b"\x1f\x8b"
        size = file.seek(0, 2)
        file.seek(0)
        self._file: IO[bytes] = gzip.GzipFile(fileobj=file) if is_packed else file  # type: ignore[assignment]
        self._left = max(MOST_INFLATED, 50 * size) if is_packed else size
        self._most_at_once = MOST_AT_ONCE if is_packed else size

    def lines(self) -> Iterator[bytes]:
        most = min(self._most_at_once, MOST_AT_ONCE)
        while line := self._file.readline(most + 1):
            if len(line) > most:
                raise ValueError(f"{self.source} has a line of more than {most >> 20} MB")
            self._left -= len(line)
            self._check(self._left)
            yield line

    def all(self) -> bytes:
        text = self._file.read(self._most_at_once + 1)
        self._check(self._most_at_once - len(text))
        return text

    def _check(self, left: int) -> None:
        if left < 0:
            raise ValueError(f"{self.source} inflates to more than is read of a file of its size")

    def first(self) -> bytes:
        """The first byte that is no blank and no byte-order mark; b"" if there is none. Reading begins anew."""
        start = self._file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
        self._file.seek(0)
        return start[:1]


# --------------------------------------------------------------------------------------------------------------- JSON


def _json_lines(source: str, file: _Inflated) -> Iterator[tuple[str, Any]]:
    if file.first() == b"[":
        yield from _json_text(source, file)
        return
    for number, line in enumerate(file.lines(), 1):
        if line.strip():
            yield f"{source}:{number}", _parsed(line)


def _json_text(source: str, file: _Inflated) -> Iterator[tuple[str, Any]]:
    text = file.all()
    found = _parsed(text)
    if isinstance(found, ValueError) and text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        for number, line in enumerate(text.split(b"\n"), 1):
            if line.strip():
                yield f"{source}:{number}", _parsed(line)
        return
    if isinstance(found, ValueError):
        raise ValueError(f"{source}: {found}")
    if isinstance(found, Mapping):
        lists = [value for value in found.values() if isinstance(value, list) and _are_objects(value)]
        found = lists[0] if len(lists) == 1 and len(lists[0]) > 1 else [found]
    if not isinstance(found, list):
        raise ValueError(f"{source}: neither an array of objects nor an object a line")
    for number, row in enumerate(found, 1):
        yield f"{source}, row {number}", row


def _are_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, Mapping) for value in values)


def _parsed(text: bytes) -> Any:
    try:
        return parse_json(text, strict=False)
    except ValueError as error:
        return ValueError("UTF-16, not UTF-8") if _is_utf16(text) else error


def _is_utf16(text: bytes) -> bool:
    return text.startswith((b"\xff\xfe", b"\xfe\xff"))


# ------------------------------------------------------------------------------------------------------------- tables


def _table(source: str, file: _Inflated) -> Iterator[tuple[str, Any]]:
    lines = _texts(source, file.lines())
    first = next(lines, "")
    delimiter = "\t" if kind(source) == ".tsv" else max(",;\t|", key=first.count)
    csv.field_size_limit(MAX_CELL)
    numbers = csv.reader(_chained(first, lines), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(numbers, [])]
        for cells in numbers:
            where = f"{source}:{numbers.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                yield where, ValueError(f"{len(cells)} cells, and the header has {len(names)}")
            else:
                yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        why = "its lines end with carriage returns alone" if "new-line character" in str(error) else str(error)
        raise ValueError(f"{source}:{numbers.line_num}: {why}") from None


def _texts(source: str, lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            why = "UTF-16, not UTF-8" if _is_utf16(line) else f"not UTF-8 at byte {error.start + 1}"
            raise ValueError(f"{source}:{number}: {why}") from None


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


# ------------------------------------------------------------------------------------------------------------ Parquet


def _parquet(source: str, file: IO[bytes], choose: Choose) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{source}: Parquet files are read by pyarrow: pip install pyarrow") from None
    number = 0
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        columns, leaves = _chosen(parquet, choose, source)
        # A value that comes again and again stays one: a batch takes no more than the pages that it is made of. Of
        # nested columns pyarrow can't read such, so that a batch has fewer rows, each of which may have all there is.
        texts = [path for path, place in leaves.items() if _is_text(parquet.schema.column(place))]
        flat = [path for path in texts if path in columns]
        whole = pyarrow.parquet.ParquetFile(file, read_dictionary=flat)
        for group, size in enumerate(_sizes(source, parquet.metadata, leaves)):
            most = BATCH if len(flat) == len(texts) else max(1, min(BATCH, MOST_OF_A_BATCH // max(size, 1)))
            for row in _group(whole.iter_batches(most, [group], columns, use_threads=False)):
                number += 1
                yield f"{source}, row {number}", row
    except (pyarrow.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is no Parquet file that can be read: {error}") from None


def _group(batches: Iterator[Any]) -> Iterator[Any]:
    """The rows of batches, or the ValueError that says why a row can't be read."""
    for batch in batches:
        cells = dict(zip(batch.schema.names, batch.columns, strict=True))
        for place in range(batch.num_rows):
            try:
                yield {name: _plain(column[place]) for name, column in cells.items()}
            except ValueError as error:
                yield ValueError(f"it can't be read: {error}")


def _plain(cell: Any) -> Any:
    """The value of a cell; of a float with few bits the shortest number that it can be told by: 0.1."""
    value = cell.as_py()
    narrow = {"float": np.float32, "halffloat": np.float16}.get(str(cell.type))
    return float(str(narrow(value))) if narrow and value is not None else value


def _chosen(parquet: Any, choose: Choose, source: str) -> tuple[list[str], dict[str, int]]:
    """The columns to read as pyarrow names them, and the places of the leaves below these, by their paths."""
    try:
        wanted = choose({field.name: _tree(field.type) for field in parquet.schema_arrow})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    paths = {parquet.schema.column(place).path: place for place in range(len(parquet.schema))}
    tops = list(parquet.schema_arrow.names)
    columns = []
    for name in wanted:
        is_path = any(path == name or path.startswith(f"{name}.") for path in paths)
        # A list's path has its own names within: then all of the column is read.
        columns.append(name if is_path else next(top for top in tops if name == top or name.startswith(f"{top}.")))
    leaves = {
        path: place
        for path, place in paths.items()
        if any(path == name or path.startswith(f"{name}.") for name in columns)
    }
    return columns, leaves


def _tree(dtype: Any) -> Any:
    """What is nested in a column: of a struct its fields, of a list the one that stands for all."""
    import pyarrow

    if pyarrow.types.is_struct(dtype):
        return {dtype.field(place).name: _tree(dtype.field(place).type) for place in range(dtype.num_fields)}
    if pyarrow.types.is_list(dtype) or pyarrow.types.is_large_list(dtype):
        return [_tree(dtype.value_type)]
    return str(dtype)


def _is_text(column: Any) -> bool:
    return column.physical_type == "BYTE_ARRAY" and column.logical_type.type in ("STRING", "NONE", "JSON", "ENUM")


def _sizes(source: str, metadata: Any, leaves: Mapping[str, int]) -> list[int]:
    """Bytes of each row group in these columns, as the end of the file says. Raises ValueError for too many."""
    sizes = []
    for group in range(metadata.num_row_groups):
        found = [metadata.row_group(group).column(place) for place in leaves.values()]
        sizes.append(sum(column.total_uncompressed_size for column in found))
        if sizes[-1] > MOST_OF_A_GROUP or any(column.num_values > MOST_VALUES for column in found):
            raise ValueError(
                f"{source}: row group {group} has {sizes[-1] >> 20:,} MB in {metadata.row_group(group).num_rows:,} "
                "rows of these columns, too much to be read at once: write it in smaller row groups"
            )
    return sizes
