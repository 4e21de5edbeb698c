"""What a checkpoint holds: its arrays and its record, checked before they are used.

`storage/checkpoint.py` says what lies where, and which step is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import logging
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from asyncthink_jax.files import checksum
from asyncthink_jax.parallel import multihost


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used or written; the message is one line that names its folder.

    `exit_code`: 2 for what would go wrong again, 1 for what may have been passing.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is not what was saved."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `restore` returns."""

    step: int
    state: Any  # the tree that was asked for, with arrays in place of the abstract leaves
    metadata: dict[str, Any]  # as given to `save`
    metric: float | None  # of the best one
    checksum: int | None  # of all its arrays; None where they have none
    folder: str


def flat(tree: Any) -> dict[str, Any]:
    """Name -> leaf, e.g. `opt_state.0.mu.embed`."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaves[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise ValueError("two leaves of the state have the same name")
    return leaves


def is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def stored(leaf: Any) -> Any:
    """The array as it is stored: typed random keys become their words."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def array_checksum(array: Any) -> int:
    host = np.ascontiguousarray(np.asarray(array))
    return zlib.crc32(host.view(np.uint8).reshape(-1).data if host.ndim else host.tobytes())


def is_finite(array: Any) -> bool:
    """Whether what this process has of an array is free of NaN and infinities."""
    if not jax.dtypes.issubdtype(array.dtype, np.floating):
        return True
    if not isinstance(array, jax.Array):
        return bool(np.isfinite(array).all())
    parts = {str(shard.index): shard.data for shard in array.addressable_shards}.values()  # replicas are one
    if all(device.platform == "cpu" for device in array.devices()):
        return all(bool(np.isfinite(np.asarray(part)).all()) for part in parts)
    return all(bool(_has_finite(part)) for part in parts)  # a copy on the host would stay there with its array


_has_finite = jax.jit(lambda part: jax.numpy.isfinite(part).all())


# -------------------------------------------------------------------------------------------------------- restoring

# What may go wrong with a checkpoint that is whole.
_PASSING = (MemoryError, PermissionError, ConnectionError, TimeoutError)
_PASSING_WORDS = [
    *("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED"),
    *("Permission denied", "Too many open files", "out of memory", "Cannot allocate memory"),
    *("Input/output error", "Stale file handle", "Connection", "timed out"),  # a disk or a network
]


def read_checkpoint(folder: epath.Path, wanted: Any, partial: bool) -> Restored:
    # All fare alike: whatever one of them can't read, none has read.
    told = multihost.on_first(lambda: _tried(folder, lambda: _read_record(folder)))
    record = _value(folder, [told])
    sums = {name: one["crc32"] for name, one in record["leaves"].items()}
    found = Restored(
        step=int(folder.name),
        state=None,
        metadata=record["user"],
        metric=record["metric"],
        checksum=None if None in sums.values() else checksum(sums),
        folder=str(folder),
    )
    tree = wanted(record["user"]) if callable(wanted) else wanted
    if tree is None:
        return found
    leaves = flat(tree)
    _check(str(folder), record["leaves"], leaves, partial)
    read: dict[str, Any] = {}
    told = _tried(folder, lambda: read.update(_arrays(folder, record["leaves"], leaves)))
    _value(folder, multihost.told_by_all(told))
    state = jax.tree.unflatten(jax.tree.structure(tree), [read[name] for name in leaves])
    return dataclasses.replace(found, state=state)


def _read_record(folder: epath.Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DamagedCheckpointError("it is a file, not a folder")
    saved = ocp.JsonCheckpointHandler().restore(folder / "record")
    if "record" not in saved and {"user", "metric", "leaves"} == saved.keys():  # of a version that sealed none
        return dict(saved)
    if saved.keys() != {"record", "crc32"} or checksum(saved["record"]) != saved["crc32"]:
        raise DamagedCheckpointError("its record is not what was saved")
    return dict(saved["record"])


def _arrays(folder: epath.Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    abstract = {name: _abstract(leaf) for name, leaf in wanted.items()}
    # By the handler, since orbax's managers and checkpointers wait for the other processes, which may have failed.
    handler = ocp.PyTreeCheckpointHandler()
    arguments = ocp.args.PyTreeRestore(
        abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True
    )
    arrays = handler.restore(folder / "state", args=arguments)
    for name, array in arrays.items():
        crc32 = saved[name]["crc32"]
        if crc32 is not None and getattr(array, "is_fully_addressable", True) and array_checksum(array) != crc32:
            raise DamagedCheckpointError(f"{name} is not what was saved")
        if not is_finite(array):
            raise DamagedCheckpointError(f"{name} has numbers that are not finite")
    for name in wanted:
        if (impl := saved[name]["key_impl"]) is not None:
            arrays[name] = jax.random.wrap_key_data(arrays[name], impl=impl)
    return arrays


def _tried(folder: epath.Path, read: Callable[[], Any]) -> dict[str, Any]:
    """What `read` returns as "value", or in one line as "damage" or "failure" what went wrong.

    Where one array can't be read, orbax abandons the reads of all others, which end a moment later and then print a
    traceback each, some when they are collected: hence the silence, the pause and the collection.
    """
    hook = sys.unraisablehook
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            sys.unraisablehook = lambda _: None
            try:
                return {"value": read()}
            except Exception as error:
                told = reason(error)
                passing = isinstance(error, _PASSING) or any(word in str(error) for word in _PASSING_WORDS)
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            with warnings.catch_warnings(action="ignore"):
                for _ in range(3):  # out of the except block, where the error would keep them alive
                    time.sleep(0.1)
                    gc.collect()
    finally:
        sys.unraisablehook = hook
    return {"failure" if passing else "damage": told}


def _value(folder: epath.Path, told: list[dict[str, Any]]) -> Any:
    """What all processes have read, or the error of the first that could not."""
    for one in told:
        if "failure" in one:
            raise CheckpointError(f"unreadable checkpoint {folder}: {one['failure']}", 1)
    for one in told:
        if "damage" in one:
            raise DamagedCheckpointError(f"damaged checkpoint {folder}: {one['damage']}")
    return told[0]["value"]


def reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text.split(" See full TensorStore details")[0][:160].rstrip(".")
    if isinstance(error, CheckpointError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check(folder: str, saved: Mapping[str, Any], wanted: Mapping[str, Any], partial: bool) -> None:
    for name, leaf in wanted.items():
        if name not in saved:
            raise CheckpointError(f"checkpoint {folder} does not fit: it has no {name}")
        now = list(leaf.shape), str(leaf.dtype)
        was = list(saved[name]["shape"]), saved[name]["dtype"]
        if now != was:
            raise CheckpointError(
                f"checkpoint {folder} does not fit: {name} is {was[1]}{was[0]} there, but {now[1]}{now[0]} is needed"
            )
    more = [name for name in saved if name not in wanted]
    if more and not partial:
        raise CheckpointError(f"checkpoint {folder} does not fit: {more[0]} is in it, but not wanted")


def _abstract(leaf: Any) -> Any:
    """The leaf as orbax wants it: a sharded ShapeDtypeStruct for a JAX array, a NumPy array as it is."""
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    words = jax.eval_shape(stored, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=sharding)
