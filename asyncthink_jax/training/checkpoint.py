"""Saves the state of a run, and restores it exactly.

    checkpoints/latest/<step>/   the last few steps: where a run goes on
    checkpoints/best/<step>/     the step with the best validation metric: what is evaluated

A save blocks only while the state is copied; a thread then writes it to a temporary folder, which is renamed when it is
complete. So a process killed at any moment leaves the checkpoint before usable, and half a checkpoint is never seen.

The state, any pytree of JAX and NumPy arrays, is stored as a flat mapping from names such as `params.embed` to arrays:
what is restored is checked by name, shape and type before a byte of it is read, whatever the containers are, and a part
(the parameters alone) can be restored. A checksum of each array tells a damaged file from a good one. Orbax is used in
this file only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

# Checksums cost about 1 s/GB of blocking time and need all of an array in one process; beyond this they are left out.
MAX_CHECKSUM_BYTES = 2**30


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used or written; the message is one line that names its folder.

    `exit_code`: 2 for what would go wrong again, 1 for what may have been passing.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `restore` returns."""

    step: int
    state: Any  # the tree that was asked for, with arrays in place of the abstract leaves
    metadata: dict[str, Any]  # as given to `save`
    folder: str


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: made if it is missing; may be a `gs://` path.
      keep: how many of the latest steps stay on disk.
      read_only: nothing is made, saved or cleaned up, so that the run itself may go on meanwhile.
    """

    def __init__(self, folder: str | epath.PathLike, *, keep: int = 2, read_only: bool = False):
        folder = epath.Path(folder)
        if "://" not in str(folder):
            folder = folder.resolve()
        try:
            self._latest = _manager(folder / "latest", keep, read_only)
            self._best = _manager(folder / "best", 1, read_only)
        except Exception as error:  # each kind of bucket has its own
            code = 1 if "://" in str(folder) else 2
            raise CheckpointError(f"cannot use checkpoint folder {folder}: {_reason(error)}", code) from error

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Starts to save `state` (arrays) and `metadata` (JSON) as `step`.

        `state` may be donated and its NumPy arrays written to as soon as this returns. An earlier save that still runs
        is waited for; if it failed, this raises CheckpointError. A step that is on disk already is left as it is.
        """
        _save(self._latest, step, state, metadata)

    def save_best(self, step: int, state: Any, metadata: Mapping[str, Any], *, metric: float) -> bool:
        """Saves `state` as the best if `metric` (higher is better) beats that of the best so far; says if it did."""
        best = self.best_metric()
        if best is not None and not metric > best:
            return False
        _save(self._best, step, state, metadata, metric=metric)
        return True

    def restore(self, abstract_state: Any, *, partial: bool = False) -> Restored | None:
        """The latest checkpoint, or None if there is none.

        Args:
          abstract_state: the tree wanted. A leaf is a `jax.ShapeDtypeStruct` (with the sharding to restore to; the
            first device if it has none), a `jax.Array` (restored to its sharding), or a NumPy array.
          partial: allows the checkpoint to hold more than is asked for.

        Raises:
          CheckpointError: unreadable, damaged, or saved from another model.
        """
        return _restore(self._latest, abstract_state, partial)

    def restore_best(self, abstract_state: Any, *, partial: bool = False) -> Restored | None:
        """As `restore`, the best checkpoint."""
        return _restore(self._best, abstract_state, partial)

    def latest_metadata(self) -> dict[str, Any] | None:
        """Metadata of the latest checkpoint (which stage to go on with), without its arrays; None if there is none."""
        record = _record(self._latest)
        return None if record is None else record["user"]

    def best_metric(self) -> float | None:
        """The best validation metric so far; None before the first `save_best`."""
        record = _record(self._best)
        return None if record is None else record["metric"]

    def wait(self) -> None:
        """Returns when all that was saved is on disk; raises CheckpointError if a save failed."""
        for manager in (self._latest, self._best):
            with _saving(manager):
                manager.wait_until_finished()

    def close(self) -> None:
        """`wait`, then frees the threads."""
        self.wait()
        self._latest.close()
        self._best.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Orbax asks jax's preemption service as well, by the checkpoint's step, which would upset the count of polls.

        It would save where it is asked to stop, and so do we: see `parallel/preemption.py`.
        """
        del step
        return False


def _manager(folder: epath.Path, keep: int, read_only: bool) -> ocp.CheckpointManager:
    writes = not read_only
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep if writes else None, create=writes, cleanup_tmp_directories=writes
    )
    return _Manager(folder, options=options, item_names=("state", "record"))


# ----------------------------------------------------------------------------------------------------------- saving


def _save(
    manager: ocp.CheckpointManager,
    step: int,
    state: Any,
    metadata: Mapping[str, Any],
    metric: float | None = None,
) -> None:
    with _saving(manager):
        manager.wait_until_finished()
        if step in manager.all_steps():
            return
        leaves = _flat(state)
        arrays = {name: _plain(leaf) for name, leaf in leaves.items()}
        with_checksum = jax.process_count() == 1 and sum(a.nbytes for a in arrays.values()) <= MAX_CHECKSUM_BYTES
        record = {
            "user": dict(metadata),
            "metric": metric,
            "leaves": {
                name: {
                    "shape": list(leaf.shape),
                    "dtype": str(leaf.dtype),
                    "key_impl": str(jax.random.key_impl(leaf)) if _is_key(leaf) else None,
                    "crc32": _checksum(arrays[name]) if with_checksum else None,
                }
                for name, leaf in leaves.items()
            },
        }
        arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), record=ocp.args.JsonSave(record))
        # Unforced, orbax skips a step that is lower than the latest, and says nothing.
        manager.save(step, args=arguments, force=True)


@contextlib.contextmanager
def _saving(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"cannot save a checkpoint in {manager.directory}: {_reason(error)}") from error


def _flat(tree: Any) -> dict[str, Any]:
    """Name -> leaf, e.g. `opt_state.0.mu.embed`."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaves[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise ValueError("two leaves of the state have the same name")
    return leaves


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    """The array as it is stored: typed random keys become their words."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _checksum(array: Any) -> int:
    host = np.ascontiguousarray(np.asarray(array))
    return zlib.crc32(host.view(np.uint8).reshape(-1).data if host.ndim else host.tobytes())


# -------------------------------------------------------------------------------------------------------- restoring


def _restore(manager: ocp.CheckpointManager, abstract_state: Any, partial: bool) -> Restored | None:
    record = _record(manager)
    if record is None:
        return None
    step = manager.latest_step()
    folder = str(manager.directory / str(step))
    wanted = _flat(abstract_state)
    _check(folder, record["leaves"], wanted, partial)

    abstract = {name: _abstract(leaf) for name, leaf in wanted.items()}
    arguments = ocp.args.PyTreeRestore(
        abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True
    )
    arrays = _read(folder, lambda: manager.restore(step, args=ocp.args.Composite(state=arguments))["state"])
    for name, array in arrays.items():
        crc32 = record["leaves"][name]["crc32"]
        if crc32 is not None and getattr(array, "is_fully_addressable", True) and _checksum(array) != crc32:
            raise CheckpointError(f"damaged checkpoint {folder}: {name} is not what was saved; remove the folder")
    for name in wanted:
        if (impl := record["leaves"][name]["key_impl"]) is not None:
            arrays[name] = jax.random.wrap_key_data(arrays[name], impl=impl)
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), [arrays[name] for name in wanted])
    return Restored(step=step, state=state, metadata=record["user"], folder=folder)


def _record(manager: ocp.CheckpointManager) -> dict[str, Any] | None:
    with _saving(manager):
        manager.wait_until_finished()
    step = manager.latest_step()
    if step is None:
        return None
    arguments = ocp.args.Composite(record=ocp.args.JsonRestore())
    return _read(str(manager.directory / str(step)), lambda: manager.restore(step, args=arguments)["record"])


def _read(folder: str, read: Callable[[], Any]) -> Any:
    """What `read` returns; turns whatever goes wrong into one line.

    Where one array can't be read, orbax abandons the reads of all others, which end a moment later and then print a
    traceback each, some when they are collected: hence the silence, the pause and the collection.
    """
    hook = sys.unraisablehook
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            sys.unraisablehook = lambda _: None
            try:
                return read()
            except Exception as error:
                reason = _reason(error)
            with warnings.catch_warnings(action="ignore"):
                for _ in range(3):  # out of the except block, where the error would keep them alive
                    time.sleep(0.1)
                    gc.collect()
    finally:
        sys.unraisablehook = hook
    raise CheckpointError(f"unreadable checkpoint {folder}: {reason}; remove the folder to use the one before")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text.split(" See full TensorStore details")[0]
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


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
    words = jax.eval_shape(_plain, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=sharding)
