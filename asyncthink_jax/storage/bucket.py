"""A run in a bucket: its checkpoints are written there by all processes, its other files by way of a local copy.

Orbax writes to buckets. But metrics are appended to, results are locked, figures drawn: that needs a disk. So of a run
in `gs://..` each process has a folder in the cache, in which the file BUCKET names the place. It is filled from the
bucket when the run is opened, and the first process sends what has changed before each checkpoint and at the end. What
the bucket holds is therefore never behind a checkpoint that it holds.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from etils.epath import Path as AnyPath

from asyncthink_jax import copies
from asyncthink_jax.config import ConfigError
from asyncthink_jax.files import locked, replace_text
from asyncthink_jax.parallel import multihost
from asyncthink_jax.shown import reason
from asyncthink_jax.storage.bucket_lock import LOCK, MACHINE, BucketError, BucketLock

T = TypeVar("T")

BUCKET = "BUCKET"  # the file that names the place
TRIES = 5  # a new VM may be without network, names and credentials for its first seconds
BACKOFF_S = 2.0  # before the second try; twice as long before each other
CHECKPOINTS = "checkpoints"
_SENT = ".sent"  # the file that lists what has been sent: name, size, time of the last change
_held: dict[Path, BucketLock] = {}  # by local copy: what this process holds


def local(workdir: str) -> Path:
    """The local folder of a run: itself, or that of its copy, which is made if it is missing.

    Raises ConfigError for what is no address, and where no folder can be made.
    """
    if "://" not in workdir:
        return Path(workdir)
    try:
        address = copies.checked_address(workdir)
        copy = copies.copy_of(address)
        copy = copy.parent / "runs" / (copy.name + ("" if multihost.is_first() else f".process{multihost.number()}"))
        copy.mkdir(parents=True, exist_ok=True)
        if place(copy) != address:
            with locked(copy, wait=True):
                replace_text(copy / BUCKET, address + "\n")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        remedy = f"set {copies.FOLDER} to a folder that can be written"
        raise ConfigError(f"no place for a copy of {workdir}: {reason(error)}; {remedy}") from error
    return copy


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keeps other machines out of a run in a bucket until the end of the block; raises BucketError if one is in it.

    The caller has the local folder for itself.
    """
    bucket = place(workdir)
    if bucket is None:
        yield
        return

    def reach() -> tuple[Any, str]:
        AnyPath(bucket).mkdir(parents=True, exist_ok=True)
        return fsspec.core.url_to_fs(str(AnyPath(bucket) / LOCK))

    def patiently(function: Callable[[], T]) -> T:
        return _patiently(bucket, function)

    lock = BucketLock(bucket, *patiently(reach), workdir, patiently)
    lock.take()
    _held[workdir] = lock
    try:
        yield
    finally:
        _held.pop(workdir, None)
        lock.release()


def place(workdir: Path) -> str | None:
    """Where the run of a local copy is; None for a run that is a local folder."""
    named = workdir / BUCKET
    return named.read_text(encoding="utf-8").strip() if named.is_file() else None


def checkpoints(workdir: Path) -> Any:
    """The folder of a run's checkpoints, as a path of etils."""
    bucket = place(workdir)
    return AnyPath(bucket or workdir) / CHECKPOINTS


def fetch(workdir: Path) -> None:
    """Makes the local copy what the bucket holds, checkpoints aside; a local run is left alone.

    Raises BucketError if the bucket can't be used, several times over, and ConfigError where no bucket can be, or where
    it holds a name that could be written elsewhere.
    """
    bucket = place(workdir)
    if bucket is None:
        return
    for old in workdir.iterdir():
        if old.name not in (BUCKET, MACHINE):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    _patiently(bucket, lambda: _fetch(AnyPath(bucket), workdir, skip=(CHECKPOINTS, LOCK)))
    (workdir / _SENT).write_text("\n".join(_states(workdir)) + "\n", encoding="utf-8")


def send(workdir: Path) -> None:
    """Sends what has changed since the last time, checkpoints aside; of a local run there is nothing to send.

    Raises BucketError if another machine has taken the run over, or if the bucket can't be used, several times over.
    """
    bucket = place(workdir)
    if bucket is None:
        return
    if workdir in _held:
        _held[workdir].check()
    _patiently(bucket, lambda: _send(workdir, bucket))


def _send(workdir: Path, bucket: str) -> None:
    sent = workdir / _SENT
    before = set(sent.read_text(encoding="utf-8").splitlines()) if sent.exists() else set()
    now = _states(workdir)
    for state in now:
        if state not in before:
            name = state.rpartition(" ")[0].rpartition(" ")[0]
            target = AnyPath(bucket) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            AnyPath(workdir / name).copy(target, overwrite=True)
    sent.write_text("\n".join(now) + "\n", encoding="utf-8")


def _patiently(bucket: str, function: Callable[[], T]) -> T:
    """What it returns, at the first try or a later one. Raises BucketError, or ConfigError for what would not pass."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        try:
            return function()
        except ConfigError:
            raise
        except ImportError as error:
            raise ConfigError(f"{bucket} can't be used: {reason(error)}; pip install 'asyncthink_jax[tpu]'") from error
        except Exception as error:  # each kind of bucket has its own
            failure = error
    raise BucketError(f"{bucket} can't be used: {reason(failure)}") from failure


def _fetch(remote: Any, target: Path, skip: tuple[str, ...] = ()) -> None:
    if not remote.exists():
        return
    for one in remote.iterdir():
        if one == remote or one.name in skip:  # some stores list a folder in itself
            continue
        if not copies.is_plain(one.name) or one.parent != remote:
            raise ConfigError(f"{remote} holds {one.name!r}, which is no plain name of a file; remove or rename it")
        if one.is_dir():
            (target / one.name).mkdir(exist_ok=True)
            _fetch(one, target / one.name)
        else:
            one.copy(target / one.name, overwrite=True)


def _states(workdir: Path) -> list[str]:
    """A line for each file: name, size, time of the last change."""
    files = [path for path in sorted(workdir.rglob("*")) if path.is_file() and path.name not in (BUCKET, _SENT)]
    names = [(path, path.relative_to(workdir)) for path in files]
    return [
        f"{name.as_posix()} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path, name in names
        if name.parts[0] != CHECKPOINTS and not name.name.startswith(".")
    ]
