"""Where this machine keeps what it can make or fetch again, among it copies of what lies in buckets.

Names in a bucket are any text. One that isn't plain could be written outside its copy, so it is refused.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

FOLDER = "ASYNCTHINK_CACHE"  # an environment variable
SCHEMES = ("gs", "s3", "az", "hf")  # that etils knows; it takes any other address for a local path


def folder() -> Path:
    """That of ASYNCTHINK_CACHE, else `asyncthink_jax` in the user's cache folder (XDG_CACHE_HOME, else `~/.cache`).

    Where there is no such folder, or none that can be written, as for a user without a home: one of the user's own in
    the folder for temporary files.
    """
    if own := os.environ.get(FOLDER):
        return Path(own)
    cache = of_user()
    return _temporary() if cache is None else cache / "asyncthink_jax"


def of_user() -> Path | None:
    """The user's cache folder, which may have to be made; None if there can't be one."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and no entry among the users
        return None
    there = next(path for path in (cache / "asyncthink_jax", cache, *cache.absolute().parents) if path.exists())
    return cache if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else None


@functools.cache
def _temporary() -> Path:
    """The same one for all processes of the user, unless somebody else has taken its name. Raises OSError for none."""
    path = Path(tempfile.gettempdir()) / f"asyncthink_jax-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return path if own else Path(tempfile.mkdtemp(prefix="asyncthink_jax-"))


def checked_address(address: str) -> str:
    """The address of a folder or file in a bucket, without a slash at its end. Raises ValueError, in a line."""
    scheme, _, path = address.partition("://")
    parts = path.rstrip("/").split("/")
    if scheme not in SCHEMES:
        raise ValueError(f"{address!r} is no address in a bucket: {', '.join(f'{one}://..' for one in SCHEMES)}")
    if not all(map(is_plain, parts)):
        raise ValueError(f"{address!r} has a part that is no plain name; give an address without '..', '//' and '\\'")
    return f"{scheme}://{'/'.join(parts)}"


def copy_of(address: str) -> Path:
    """Where the copy of an address belongs: a name to read, and a digest, since two addresses may read alike."""
    digest = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return folder() / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', address)[:80]}-{digest}"


def is_plain(name: str) -> bool:
    """Whether a name is that of one file or folder on every system: no path, no control character, not too long."""
    return (
        name not in ("", ".", "..")
        and not re.search(r"[/\\]|^[A-Za-z]:", name)
        and name.isprintable()
        and len(name.encode("utf-8", "surrogatepass")) <= 255
    )
