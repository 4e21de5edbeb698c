"""Files that a kill leaves whole, and that two processes don't write at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes a file in one move, so that a kill leaves the old or the new one."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """Whether this process has the file or folder for itself, until the end of the block or of the process.

    With `wait` it always has, in the end; without, not if another process has it now.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
