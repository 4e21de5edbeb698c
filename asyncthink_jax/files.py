"""Files that a kill or a full disk leaves whole, that are known if damaged, and that one process writes at a time.

An OSError of a write names no file; what is raised here always does, so that a command can tell it in one line.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)  # of a network's file systems
SUMS = "SHA256SUMS"  # of the other files of its folder, in the format of the program sha256sum


class FileError(ValueError):
    """A file that is not what it should be: in one line its name, what is wrong, and what to do."""


# ----------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Has an OSError of the block name this file, if it names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` at the end of the block; after an error nothing has changed.

    A device or a pipe is written to as it is. Raises OSError, with the file's name.
    """
    path = Path(os.path.realpath(path))  # what a link leads to is replaced, and not the link
    if path.exists() and not (path.is_file() or path.is_dir()):
        with naming(path):
            yield path
        return
    draft = path.with_name(f".{path.name[:60]}.new")
    try:
        with naming(path):
            yield draft
            draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Writes a file in one move, so that a kill or a full disk leaves the old or the new one."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="replace")


def append(file: BinaryIO, data: bytes) -> None:
    """Appends to an unbuffered file all of `data`, or nothing: what a full disk has taken of it is cut off again.

    Raises OSError, with the file's name.
    """
    start, left = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        with naming(file.name):
            while left:
                left = left[file.write(left) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(start)
        raise


def check_writable(folder: Path) -> None:
    """Makes the folder, if it is missing. Raises FileError where no file can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise FileError(f"{folder} can't be written: {error.strerror}") from error


def name_of(text: str) -> str:
    """A name for a file or folder out of any text: as it is where that can be one, else what can, and a digest."""
    plain = re.sub(r"[\0-\x1f\x7f\ud800-\udfff]", "-", text.replace("/", "-"))
    if plain == text.replace("/", "-") and len(plain.encode()) <= 200 and plain not in ("", ".", ".."):
        return plain
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:10]
    return f"{plain.encode()[:150].decode(errors='ignore')}-{digest}"


# -------------------------------------------------------------------------------------------------------- checksums

CRC = "crc32"  # the field of a JSON object that has the checksum of its other fields


def checksum(value: Mapping[str, Any]) -> int:
    """CRC-32 of a JSON object, in whatever order and layout it is written."""
    return zlib.crc32(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode())


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum, so that damage is known where it is read. Half a character becomes "?"."""
    plain = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return {**plain, CRC: checksum(plain)}


def unsealed(value: dict[str, Any]) -> dict[str, Any]:
    """The object without its checksum, if it has one. Raises ValueError where that is of something else."""
    if CRC not in value:
        return value
    plain = {name: one for name, one in value.items() if name != CRC}
    if checksum(plain) != value[CRC]:
        raise ValueError(f"is not what was written (remove its {CRC}, if it was changed on purpose)")
    return plain


# ----------------------------------------------------------------------------------------------------------- reading


def read_object(path: Any, remedy: str, check: Callable[[dict[str, Any]], None] = lambda value: None) -> dict[str, Any]:
    """The JSON object in a file, a path of this machine or of a bucket.

    Raises FileError, which ends with the remedy, if there is something else in it, or what `check` refuses by a
    ValueError.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        what = "is empty" if isinstance(error, json.JSONDecodeError) and not text.strip() else f"is no JSON: {error}"
        raise FileError(f"{path} {what}; {remedy}") from error
    if not isinstance(value, dict):
        raise FileError(f"{path} holds no JSON object; {remedy}")
    try:
        value = unsealed(value)
    except ValueError as error:
        raise FileError(f"{path} {error}; {remedy}") from error
    try:
        check(value)
    except ValueError as error:
        raise FileError(f"{path}: {error}; {remedy}") from error
    return value


def record_sums(folder: Path, names: Iterable[str] = ()) -> None:
    """Writes down what these files of a folder are now (default: all), for `damaged` to tell."""
    found = sorted(names) or sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    replace_text(folder / SUMS, "".join(f"{sum_of(folder / name)}  {name}\n" for name in found))


def damaged(folder: Path) -> list[str]:
    """The files that are missing or not what they were when their sums were recorded; none if nothing was recorded."""
    return [name for name, recorded in read_sums(folder).items() if sum_of(folder / name) != recorded]


def read_sums(folder: Path) -> dict[str, str]:
    """The recorded sums, by the names of the files; {} if nothing was recorded."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return {
        name: recorded
        for recorded, _, name in (line.partition("  ") for line in lines)
        if name and name == Path(name).name
    }


def check_sum(path: Path) -> None:
    """Raises FileError for a file that is not what it was when its sum was recorded."""
    if read_sums(path.parent).get(path.name) not in (None, sum_of(path)):
        raise FileError(
            f"{path} is not what it was when the run began: put it back from a copy (or remove "
            f"{path.with_name(SUMS)}, if it was changed on purpose)"
        )


def sum_of(path: Path) -> str | None:
    """The SHA-256 of a file, in hexadecimal digits; None if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return None


# ----------------------------------------------------------------------------------------------------------- locking


@contextlib.contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """Whether this process has the file or folder for itself, until the end of the block or of the process.

    With `wait` it always has, in the end; without, not if another process has it now. Where the file system knows no
    such locks, it has.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    try:
        descriptor = os.open(path, os.O_RDWR)  # over NFS nothing else can be locked
    except OSError:  # a folder, or one that this user only reads
        descriptor = os.open(path, os.O_RDONLY)
    alone = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            alone = False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield alone
    finally:
        os.close(descriptor)
