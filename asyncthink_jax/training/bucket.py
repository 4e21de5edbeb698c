"""A run in a bucket: its checkpoints are written there by all processes, its other files by way of a local copy.

Orbax writes to buckets. But metrics are appended to, results are locked, figures drawn: that needs a disk. So of a run
in `gs://..` each process has a folder in the cache, in which the file BUCKET names the place. It is filled from the
bucket when the run is opened, and the first process sends what has changed before each checkpoint and at the end. What
the bucket holds is therefore never behind a checkpoint that it holds.
"""

import re
import shutil
import time
from pathlib import Path
from typing import Any

from etils.epath import Path as AnyPath

from asyncthink_jax.config import ConfigError
from asyncthink_jax.parallel import multihost
from asyncthink_jax.protocol.cache import folder

BUCKET = "BUCKET"  # the file that names the place
TRIES = 5  # a new VM may be without network, names and credentials for its first seconds
BACKOFF_S = 2.0  # before the second try; twice as long before each other
CHECKPOINTS = "checkpoints"
_SENT = ".sent"  # the file that lists what has been sent: name, size, time of the last change


class BucketError(ConfigError):
    """A bucket that can't be read, which may be passing."""

    exit_code = 1


def local(workdir: str) -> Path:
    """The local folder of a run: itself, or that of its copy, which is made if it is missing."""
    if "://" not in workdir:
        return Path(workdir)
    place = workdir.rstrip("/")
    own = "" if multihost.is_first() else f".process{multihost.number()}"
    copy = folder() / "runs" / (re.sub(r"[^\w.-]+", "_", place) + own)
    copy.mkdir(parents=True, exist_ok=True)
    (copy / BUCKET).write_text(place + "\n", encoding="utf-8")
    return copy


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

    Raises BucketError if the bucket can't be read, several times over, and ConfigError where no bucket can be.
    """
    bucket = place(workdir)
    if bucket is None:
        return
    for old in workdir.iterdir():
        if old.name != BUCKET:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for attempt in range(TRIES):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        try:
            _fetch(AnyPath(bucket), workdir)
            (workdir / _SENT).write_text("\n".join(_states(workdir)) + "\n", encoding="utf-8")
            return
        except ImportError as error:
            raise ConfigError(f"{bucket} can't be read: {_line(error)}; pip install 'asyncthink_jax[tpu]'") from error
        except Exception as error:  # each kind of bucket has its own
            failure = error
    raise BucketError(f"{bucket} can't be read: {_line(failure)}") from failure


def send(workdir: Path) -> None:
    """Sends what has changed since the last time, checkpoints aside; of a local run there is nothing to send."""
    bucket = place(workdir)
    if bucket is None:
        return
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


def _fetch(remote: Any, target: Path) -> None:
    if not remote.exists():
        return
    for one in remote.iterdir():
        if one.is_dir():
            if one.name != CHECKPOINTS:
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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
