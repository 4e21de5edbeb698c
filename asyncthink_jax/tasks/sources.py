"""Datasets that others made: rows out of files, or of a name on the Hugging Face hub.

    problems.jsonl                 a JSON object a line
    problems.json                  one JSON array of objects
    problems.parquet               (pip install pyarrow)
    owner/name[/subset][:split]    a dataset of the hub (pip install datasets); the split is "train" if none is named

Files may lie in a bucket (`gs://..`). Their columns are named differently from file to file, hence `column`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar

import numpy as np
from etils import epath

from asyncthink_jax.shown import complain

Row = Mapping[str, Any]
T = TypeVar("T")
SUFFIXES = (".jsonl", ".json", ".parquet")
REPORTED = 10  # broken lines of a source that are reported one by one


def files(sources: Sequence[str]) -> list[str]:
    """Those of the sources that are files. Raises FileNotFoundError, in one line, for one that isn't there."""
    found = [source for source in sources if source.endswith(SUFFIXES)]
    for source in found:
        _open(source).close()
    return found


def labels(sources: Sequence[str]) -> dict[str, str]:
    """What each source is called in tables: a file's name without its ending, a dataset's without owner and split.

    Of those that would be called the same, as much more as tells them apart: a file's folders, a dataset's split.
    """
    names = {source: _names(source) for source in sources}

    def is_free(name: str, source: str) -> bool:
        return not any(name in others for other, others in names.items() if other != source)

    return {source: next((name for name in own if is_free(name, source)), source) for source, own in names.items()}


def _names(source: str) -> list[str]:
    """What it may be called, the shortest first."""
    if source.endswith(SUFFIXES):
        *folders, name = epath.Path(source).with_suffix("").parts
        return ["/".join([*folders[len(folders) - n :], name]) for n in range(len(folders) + 1)]
    dataset, _, split = source.partition(":")
    short = dataset.split("/", 1)[-1]
    return [short, f"{short}:{split or 'train'}", source]


def read(source: str, convert: Callable[[Row], T], skip_bad: bool = False) -> list[T]:
    """What `convert` makes of the rows of a source, in their order. It raises ValueError for a row that it can't use.

    With `skip_bad` such rows, and those that can't be read at all, are reported, counted and left out. Without it the
    first of them raises ValueError, in one line with file and line number; so does a source without any usable row, or
    one that needs a package that isn't installed. FileNotFoundError where there is no such file.
    """
    found, broken = [], 0
    for where, row in _rows(source):
        try:
            found.append(convert(_object(row)))
        except ValueError as error:
            if not skip_bad:
                raise ValueError(f"{where}: {error} (data.skip_bad=true leaves such rows out)") from None
            broken += 1
            if broken <= REPORTED:
                complain(f"{where}: {error}; left out")
    if broken:
        complain(f"{source}: {broken} broken of {broken + len(found)} rows left out")
    if not found:
        raise ValueError(f"{source} has no row that can be used")
    return found


def column(row: Row, named: str, usual: Sequence[str], field: str) -> Any:
    """The value of the column `named`, or, if that is "", of the first of the `usual` ones there is (in any case).

    Raises ValueError that names the columns there are, and the config `field` that says which it is.
    """
    if named in row:
        return row[named]
    if not named:
        by_lower = {str(name).lower(): name for name in reversed(list(row))}
        for name in usual:
            if name in by_lower:
                return row[by_lower[name]]
    wanted = f"no column {named!r}" if named else f"none of the columns {', '.join(usual)}"
    raise ValueError(f"{wanted} among {', '.join(map(str, row))}: {field} says which it is")


def text(value: Any, what: str) -> str:
    """A text that isn't empty, without the space around it; else raises ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the {what} is {_short(value)}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and no tokenizer can read
        raise ValueError(f"the {what} is no Unicode text: {_short(ascii(value))}") from None
    return value.strip()


def sample(problems: list[T], size: int, rng: np.random.Generator, field: str) -> list[T]:
    """So many of them, in their order; 0 = all. Raises ValueError, which names the config field, if there are fewer."""
    if size > len(problems):
        raise ValueError(f"{field} is {size}, but there are {len(problems)} problems")
    if not size:
        return problems
    return [problems[i] for i in sorted(rng.choice(len(problems), size, replace=False))]


def _rows(source: str) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and the row, or the ValueError that says why it can't be read."""
    if source.endswith(".jsonl"):
        yield from _json_lines(source)
    elif source.endswith(".json"):
        yield from _json_array(source)
    elif source.endswith(".parquet"):
        yield from _parquet(source)
    else:
        yield from _hub(source)


def _json_lines(source: str) -> Iterator[tuple[str, Any]]:
    with _open(source) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{source}:{number}", _parsed(line)


def _json_array(source: str) -> Iterator[tuple[str, Any]]:
    with _open(source) as file:
        rows = _parsed(file.read())
    if not isinstance(rows, list):
        why = rows if isinstance(rows, ValueError) else "no array; with an object a line its name ends with .jsonl"
        raise ValueError(f"{source}: {why}")
    for number, row in enumerate(rows, 1):
        yield f"{source}, row {number}", row


def _parquet(source: str) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{source}: Parquet files are read by pyarrow: pip install pyarrow") from None
    number = 0
    with _open(source) as file:
        try:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{source}, row {number}", row
        except pyarrow.ArrowException as error:
            raise ValueError(f"{source} is no Parquet file: {_short(str(error))}") from None


def _hub(source: str) -> Iterator[tuple[str, Any]]:
    name, _, split = source.partition(":")
    parts = name.split("/")
    endings = f"a file that ends with {', '.join(SUFFIXES)}"
    if len(parts) not in (2, 3) or not all(parts):
        raise ValueError(f"{source!r} is neither {endings} nor a dataset owner/name[/subset][:split] of a hub")
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{source!r} is on the Hugging Face hub, which the package datasets reads: pip install datasets, or name "
            f"{endings}"
        ) from None
    try:
        rows = datasets.load_dataset("/".join(parts[:2]), *parts[2:], split=split or "train")
    except Exception as error:  # whatever the network, the hub and its cache raise
        raise ValueError(f"{source!r} can't be read from the Hugging Face hub: {_short(str(error))}") from error
    for number, row in enumerate(rows, 1):
        yield f"{source}, row {number}", row


def _open(source: str) -> IO[bytes]:
    if not epath.Path(source).is_file():
        raise FileNotFoundError(f"no file {source}")
    return epath.Path(source).open("rb")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return ValueError(f"no JSON: {error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        return ValueError(f"no JSON that can be read: {_short(str(error))}")


def _object(row: Any) -> Row:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, Mapping):
        raise ValueError(f"{_short(row)} is no object of columns")
    return row


def _short(value: Any) -> str:
    """On one line, and not much of it."""
    words = " ".join((value if isinstance(value, str) else repr(value)).split())
    return words if len(words) <= 200 else f"{words[:200]}.."
