"""Where weights come from: a local path, a bucket (copied to a cache folder), or a hub id (downloaded)."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from asyncthink_jax import copies
from asyncthink_jax.files import locked
from asyncthink_jax.model.tensors import WeightsError
from asyncthink_jax.shown import reason

# The files of a model, never pickle files. From the hub, GGUF files are fetched only by name: some ids have twenty.
PATTERNS = ("*.safetensors", "*.gguf", "*.json", "*.jinja", "*.model", "merges.txt")
PARTIAL = ".partial-"  # marks the name of a file that a process is still writing
TOKENIZER_PATTERNS = ("*.json", "*.jinja", "*.model", "merges.txt")  # the files of its tokenizer


def local_path(source: str | Path, patterns: Sequence[str] = PATTERNS) -> Path:
    """The local folder or file of a source, or its local copy.

    From the hub, only files that match `patterns` are copied. A GGUF file of a hub id is `owner/name/file.gguf`.

    Raises WeightsError if the source does not exist or can't be fetched.
    """
    if "://" in str(source):
        return _copied(str(source))
    path = Path(source)
    if path.exists():
        return path
    if named := re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:/([\w.-]+\.gguf))?", str(source)):
        if named[2]:
            return _downloaded(named[1], [named[2]]) / named[2]
        return _downloaded(named[1], [pattern for pattern in patterns if pattern != "*.gguf"])
    raise WeightsError(f"{path} does not exist")


def _copied(source: str) -> Path:
    """The local copy of a folder or file. A file that is there with the same size and not older is not copied again.

    One process at a time copies an address; the others find its files.
    """
    try:
        address = copies.checked_address(source)
    except ValueError as error:
        raise WeightsError(str(error)) from error
    try:
        target = copies.copy_of(address)
        remote = epath.Path(address)
        if remote.is_dir():
            found = [one for one in remote.iterdir() if any(one.match(pattern) for pattern in PATTERNS)]
        elif remote.exists():
            found = [remote]
        else:
            raise WeightsError(f"{source} does not exist")
        for one in found:
            if not copies.is_plain(one.name) or one.parent not in (remote, remote.parent):
                raise WeightsError(
                    f"{source} holds {one.name!r}, which is no plain name of a file; remove or rename it"
                )
        target.mkdir(parents=True, exist_ok=True)
        with locked(target, wait=True):
            for one in found:
                _copy(one, target / one.name)
            # A file that the source no longer has would be read as a part of the model, or was left by a kill.
            for old in {path.name for path in target.iterdir()} - {one.name for one in found}:
                (target / old).unlink()
        return target / remote.name if found == [remote] else target
    except WeightsError:
        raise
    except ImportError as error:
        raise WeightsError(f"{source} can't be read: {reason(error)}; pip install gcsfs") from error
    except Exception as error:  # each kind of bucket has its own types
        raise WeightsError(f"{source} can't be copied: {reason(error)}") from error


def _copy(remote: Any, target: Path) -> None:
    stat = remote.stat()
    if target.exists():
        own = target.stat()
        if own.st_size == stat.length and own.st_mtime >= (stat.mtime or 0):
            return
    draft = target.with_name(f"{target.name}{PARTIAL}{os.getpid()}")
    try:
        remote.copy(draft, overwrite=True)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _downloaded(source: str, patterns: Sequence[str]) -> Path:
    """The snapshot of a hub id in huggingface_hub's own cache."""
    nothing = f"{source} is no local folder or file"
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(f"{nothing}; to fetch it as a hub id: pip install huggingface_hub") from error
    try:
        snapshot = huggingface_hub.snapshot_download(
            source, allow_patterns=list(patterns), ignore_patterns=["*/*"], cache_dir=_hub_cache()
        )
    except Exception as error:  # many types: no such repository, no rights, no network, not in the cache
        raise WeightsError(f"{nothing}, and the hub didn't give it: {reason(error)}") from error
    return Path(snapshot)


def _hub_cache() -> Path | None:
    """The cache folder for huggingface_hub; None = its own default, if that can be written."""
    is_set = any(os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"))
    return None if is_set or copies.of_user() is not None else copies.folder() / "huggingface"
