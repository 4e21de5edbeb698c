"""Datasets that others made: rows out of files, or of a name on the Hugging Face hub.

    problems.jsonl, .json, .csv, .tsv, .parquet     see `row_files.py`
    owner/name[/subset][:split]     a dataset of the hub (pip install 'datasets>=4'); the split "train" if none is named

Files may lie in a bucket (`gs://..`). Their columns are named differently from file to file, hence `Column`, and hold
texts in different wrappings, hence `plain`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from asyncthink_jax.shown import complain, harmless
from asyncthink_jax.tasks import row_files
from asyncthink_jax.tasks.row_files import Row

T = TypeVar("T")
REPORTED = 10  # broken lines of a source that are reported one by one
MOST_CHARACTERS = 1_000_000  # of a text
# Characters of all rows of a file, or fifty times its bytes: Parquet keeps repeated ones once, gzip long ones short.
MOST_READ = 1 << 29


@dataclasses.dataclass(frozen=True)
class Column:
    """Where a value stands in the rows of others.

    Attributes:
      usual: its names in known files, in any case; the first that is there counts.
      named: the user's name for it, which then is the only one. A dot leads into a nested column.
      field: of the config, that names it; "" = none does.
      is_needed: else its value is None where there is no such column.
    """

    usual: Sequence[str]
    named: str = ""
    field: str = ""
    is_needed: bool = True

    def find(self, row: Row) -> tuple[str, Any]:
        """Its name in a row, and its value; ("", None) where it may be missing, and is.

        Raises ValueError that names the columns there are.
        """
        by_lower = {} if self.named else {str(name).lower(): name for name in reversed(list(row))}
        for name in [self.named] if self.named else self.usual:
            name = by_lower.get(name, name)
            try:
                return name, _at(row, name)
            except KeyError:
                pass
        if not self.is_needed:
            return "", None
        wanted = f"no column {self.named!r}" if self.named else f"none of the columns {', '.join(self.usual)}"
        remedy = f": {self.field} says which it is" if self.field else ""
        raise ValueError(f"{wanted} among {harmless(', '.join(_names_in(row)), 500)}{remedy}")


def _at(value: Any, name: str) -> Any:
    """What stands under a dotted name, else KeyError. A name may have dots of its own; a list of one is no step."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        raise KeyError(name)
    if name in value:
        return value[name]
    for place, character in enumerate(name):
        if character == "." and name[:place] in value:
            try:
                return _at(value[name[:place]], name[place + 1 :])
            except KeyError:
                pass
    raise KeyError(name)


def _names_in(row: Row) -> Iterator[str]:
    """The names of the columns; of a nested one those that are in it."""
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield str(name)


def files(sources: Sequence[str]) -> list[str]:
    """Those of the sources that are files. Raises FileNotFoundError or ValueError, in one line, for one that isn't."""
    found = [source for source in sources if row_files.kind(source)]
    for source in found:
        row_files.open_file(source).close()
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
    if row_files.kind(source):
        path = epath.Path(source)
        while path.suffix.lower() in (row_files.COMPRESSED, *row_files.KINDS):
            path = path.with_suffix("")
        *folders, name = path.parts
        return ["/".join([*folders[len(folders) - n :], name]) for n in range(len(folders) + 1)]
    dataset, _, split = source.partition(":")
    short = dataset.split("/", 1)[-1]
    return [short, f"{short}:{split or 'train'}", source]


def read(
    source: str, columns: Mapping[str, Column], convert: Callable[[dict[str, Any]], T], skip_bad: bool = False
) -> list[T]:
    """What `convert` makes of the rows of a source, in their order.

    Args:
      source: a file, or the name of a dataset.
      columns: what is read of each row, by the names under which `convert` gets it.
      convert: raises ValueError for values that it can't use.
      skip_bad: such rows, and those that can't be read at all, are reported, counted and left out. Otherwise the first
        of them raises ValueError, in one line with file and line number.

    Raises:
      ValueError: a source that can't be read, or has no usable row, or needs a package that isn't installed.
      FileNotFoundError: there is no such file.
    """

    def choose(row: Row) -> list[str]:
        names = [column.find(row)[0] for column in columns.values()]
        return [name for name in names if name]

    is_file = bool(row_files.kind(source))
    most = max(MOST_READ, 50 * epath.Path(source).stat().length) if is_file and epath.Path(source).exists() else None
    found: list[T] = []
    broken = read_so_far = 0
    for where, row in row_files.rows(source, choose) if is_file else _hub(source, choose):
        try:
            values = {key: column.find(_object(row))[1] for key, column in columns.items()}
            found.append(convert(values))
            read_so_far += 500 + sum(map(_length, values.values()))  # characters, and bytes of an object
        except ValueError as error:
            if not skip_bad:
                raise ValueError(f"{where}: {error} (data.skip_bad=true leaves such rows out)") from None
            broken += 1
            if broken <= REPORTED:
                complain(f"{where}: {error}; left out")
        if most is not None and read_so_far > most:
            raise ValueError(f"{where}: up to here the rows have more text than is read of a file of this size")
    if broken:
        complain(f"{source}: {broken} broken of {broken + len(found)} rows left out")
    if not found:
        raise ValueError(f"{source} has no row that can be used")
    return found


def _length(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str | bytes) else 0


def plain(value: Any, what: str) -> Any:
    """A value without what others wrap it in: a list of one, chunks of text, a chat of which the user's words count.

    Raises ValueError for several values, or parts among which a name has to choose.
    """
    for _ in range(4):
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise ValueError(f"the {what} is bytes that are no text") from None
        elif isinstance(value, Mapping):
            if len(value) == 1 and "text" in value:
                value = value["text"]
                continue
            parts = harmless(", ".join(map(str, value)), 200)
            raise ValueError(f"the {what} has the parts {parts}: a dot in the column's name leads to one of them")
        elif isinstance(value, list | tuple):
            value = _one(list(value), what)
        else:
            break
    return value


def _one(values: list[Any], what: str) -> Any:
    if values and all(isinstance(part, Mapping) and "role" in part for part in values):
        said = [part.get("content") for part in values if part["role"] == "user"]
        if len(said) != 1:
            raise ValueError(f"the {what} is a chat in which the user speaks {len(said)} times, must be once")
        return said[0]
    if values and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in values):
        return "".join(part["text"] for part in values)
    if len(values) != 1:
        raise ValueError(f"the {what} is a list of {len(values)}, must be one")
    return values[0]


def text(value: Any, what: str) -> str:
    """A text that isn't empty, without the space around it; else raises ValueError."""
    value = plain(value, what)
    if not isinstance(value, str):
        raise ValueError(f"the {what} is {_short(value)}, not a text")
    if not value.strip():
        raise ValueError(f"the {what} is empty")
    if len(value) > MOST_CHARACTERS:
        raise ValueError(f"the {what} has {len(value):,} characters, at most {MOST_CHARACTERS:,} are read")
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


def _hub(source: str, choose: row_files.Choose) -> Iterator[tuple[str, Any]]:
    name, _, split = source.partition(":")
    parts = name.split("/")
    endings = f"a file that ends with {', '.join(row_files.KINDS)}"
    if len(parts) not in (2, 3) or not all(parts):
        raise ValueError(f"{source!r} is neither {endings} nor a dataset owner/name[/subset][:split] of a hub")
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{source!r} is on the Hugging Face hub, which the package datasets reads: pip install 'datasets>=4', or "
            f"name {endings}"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise ValueError(
            f"{source!r} is on the Hugging Face hub, and datasets {datasets.__version__} would run a script that comes "
            "with a dataset: pip install 'datasets>=4'"
        )
    try:
        rows = datasets.load_dataset("/".join(parts[:2]), *parts[2:], split=split or "train")
    except Exception as error:  # whatever the network, the hub and its cache raise
        raise ValueError(f"{source!r} can't be read from the Hugging Face hub: {_short(str(error))}") from error
    names = _needed(getattr(rows, "features", None), choose)
    for number, row in enumerate(rows.select_columns(names) if names else rows, 1):
        yield f"{source}, row {number}", row


def _needed(features: Any, choose: row_files.Choose) -> list[str]:
    """The columns of a dataset that are needed, so that images and the like are not decoded; [] where it can't tell."""
    try:
        chosen = choose(features)
    except (ValueError, TypeError, AttributeError):  # each row will say what is missing
        return []
    return [name for name in features if any(one == name or one.startswith(f"{name}.") for one in chosen)]


def _object(row: Any) -> Row:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, Mapping):
        raise ValueError(f"{_short(row)} is no object of columns")
    return row


def _short(value: Any) -> str:
    return harmless(value if isinstance(value, str) else repr(value), 200)
