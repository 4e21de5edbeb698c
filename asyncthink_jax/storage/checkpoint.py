"""Saves the state of a run, and restores it exactly.

    checkpoints/latest/<step>/          the last few steps: where a run goes on
    checkpoints/best/<step>/            the step with the best validation metric: what is evaluated
    checkpoints/damaged/latest_<step>/  what could not be read: set aside, and the one before it is used

A save blocks only while the state is copied; a thread then writes it to a temporary folder, which is renamed when it is
complete. So a process killed at any moment leaves the checkpoint before usable, and half a checkpoint is never seen.

The state, any pytree of JAX and NumPy arrays, is stored as a flat mapping from names such as `params.embed` to arrays:
what is restored is checked by name, shape and type before a byte of it is read, whatever the containers are, and a part
(the parameters alone) can be restored. A checksum of each array tells a damaged file from a good one, and the record
that holds them, with all that is no array, has one of its own. Beyond MAX_CHECKSUM_BYTES, and with several processes,
arrays have none: there a file that is cut, missing or can't be decoded is noticed, a flipped bit of a number is not.
With several processes the first reads the record for all, and arrays that one of them can't read are damaged for all.
Orbax is used in this file and in `checkpoint_arrays.py` only.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from asyncthink_jax.files import checksum
from asyncthink_jax.parallel import multihost
from asyncthink_jax.shown import complain
from asyncthink_jax.storage.checkpoint_arrays import (
    CheckpointError,
    DamagedCheckpointError,
    Restored,
    array_checksum,
    flat,
    is_key,
    read_checkpoint,
    reason,
    stored,
)

# Checksums cost about 1 s/GB of blocking time and need all of an array in one process; beyond this they are left out.
MAX_CHECKSUM_BYTES = 2**30


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk: the errors of orbax have words alone

# What orbax can't do is raised where it is waited for; its threads log a traceback of it besides.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: made if it is missing; may be a `gs://` path.
      keep: how many of the latest steps stay on disk.
      read_only: nothing is made, saved, set aside or cleaned up, so that the run itself may go on meanwhile.

    What is damaged is set aside, with a line on stderr, and the one before it is read; with `read_only` it is an error.
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
            raise CheckpointError(f"cannot use checkpoint folder {folder}: {reason(error)}", code) from error
        self._damaged, self._read_only = folder / "damaged", read_only

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Starts to save `state` (arrays) and `metadata` (JSON) as `step`.

        `state` may be donated, its NumPy arrays and `metadata` written to as soon as this returns. An earlier save that
        still runs is waited for; if it failed, this raises CheckpointError. A step that is on disk already is left as
        it is.
        """
        _save(self._latest, step, state, metadata)

    def save_best(self, step: int, state: Any, metadata: Mapping[str, Any], *, metric: float) -> bool:
        """Saves `state` as the best if `metric` (higher is better) beats that of the best so far; says if it did."""
        best = self.best_metric()
        if not math.isfinite(metric) or (best is not None and not metric > best):
            return False
        _save(self._best, step, state, metadata, metric=metric)
        return True

    def restore(self, wanted: Any, *, partial: bool = False) -> Restored | None:
        """The latest checkpoint that can be read, or None if there is none.

        Args:
          wanted: the tree wanted. A leaf is a `jax.ShapeDtypeStruct` (with the sharding to restore to; the first device
            if it has none), a `jax.Array` (restored to its sharding), or a NumPy array. Or a function that says what is
            wanted of a checkpoint with this metadata; None wants no arrays.
          partial: allows the checkpoint to hold more than is asked for.

        Raises:
          CheckpointError: saved from another model, or can't be read just now.
          DamagedCheckpointError: it is not what was saved, and this is `read_only`.
        """
        return self._first_good(self._latest, wanted, partial)

    def restore_best(self, wanted: Any, *, partial: bool = False) -> Restored | None:
        """As `restore`, the best checkpoint."""
        return self._first_good(self._best, wanted, partial)

    def latest_metadata(self) -> dict[str, Any] | None:
        """Metadata of the latest checkpoint (which stage to go on with), without its arrays; None if there is none."""
        found = self.restore(None, partial=True)
        return None if found is None else found.metadata

    def best_metric(self) -> float | None:
        """The best validation metric so far; None before the first `save_best`."""
        found = self.restore_best(None, partial=True)
        return None if found is None else found.metric

    def _first_good(self, manager: ocp.CheckpointManager, wanted: Any, partial: bool) -> Restored | None:
        with _saving(manager):
            manager.wait_until_finished()
        steps = multihost.on_first(lambda: self._steps(manager))
        for step, *before in [steps[n:] for n in range(len(steps))]:
            try:
                return read_checkpoint(manager.directory / str(step), wanted, partial)
            except DamagedCheckpointError as error:
                if self._read_only:
                    raise
                self._set_aside(manager, step, f"{error}", before)
        return None

    def _steps(self, manager: ocp.CheckpointManager) -> list[int]:
        """The steps on disk, the latest first; a file with the name of a step is one too, and damaged."""
        try:
            files = [one.name for one in manager.directory.iterdir() if not one.is_dir()]
        except FileNotFoundError:
            return []
        except Exception as error:
            raise CheckpointError(f"cannot read checkpoint folder {manager.directory}: {reason(error)}", 1) from error
        return sorted({*manager.all_steps(), *(int(name) for name in files if name.isdecimal())}, reverse=True)

    def _set_aside(self, manager: ocp.CheckpointManager, step: int, what: str, before: list[int]) -> None:
        """Moves a damaged checkpoint to where nobody reads it, and says so."""
        kind = manager.directory.name

        def move() -> str:
            target, number = self._damaged / f"{kind}_{step}", 1
            while target.exists():
                number += 1
                target = self._damaged / f"{kind}_{step}_{number}"
            self._damaged.mkdir(parents=True, exist_ok=True)
            (manager.directory / str(step)).rename(target)
            return str(target)

        try:
            target = multihost.on_first(move)
        except multihost.ProcessError:
            raise
        except Exception as error:
            raise CheckpointError(f"{what}; it can't be moved to {self._damaged}: {reason(error)}") from error
        with _quiet():
            manager.reload()
        after = f"going on from the one before it, step {before[0]}" if before else "there is none before it"
        if multihost.is_first():
            complain(f"warning: {what}; it is kept as {target}; {after}")

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
    with _quiet():
        return _Manager(folder, options=options, item_names=("state", "record"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's complaints about files of its own that nothing here depends on."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


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
        leaves = flat(state)
        arrays = {name: stored(leaf) for name, leaf in leaves.items()}
        with_checksum = jax.process_count() == 1 and sum(a.nbytes for a in arrays.values()) <= MAX_CHECKSUM_BYTES
        record = {
            "user": json.loads(json.dumps(dict(metadata))),  # a copy, since orbax's thread writes it later
            "metric": metric,
            "leaves": {
                name: {
                    "shape": list(leaf.shape),
                    "dtype": str(leaf.dtype),
                    "key_impl": str(jax.random.key_impl(leaf)) if is_key(leaf) else None,
                    "crc32": array_checksum(arrays[name]) if with_checksum else None,
                }
                for name, leaf in leaves.items()
            },
        }
        sealed = {"record": record, "crc32": checksum(record)}
        arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), record=ocp.args.JsonSave(sealed))
        # Unforced, orbax skips a step that is lower than the latest, and says nothing.
        manager.save(step, args=arguments, force=True)


@contextlib.contextmanager
def _saving(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
        return
    except CheckpointError:
        raise
    except Exception as error:
        full = next((words for number in _FULL if (words := os.strerror(number)) in str(error)), None)
        told = f"cannot save a checkpoint in {manager.directory}: {full or reason(error)}"
        traceback.clear_frames(error.__traceback__)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    for _ in range(3):  # the writes that orbax has abandoned end a moment later, and would tell of it at the end
        time.sleep(0.1)
        gc.collect()
    sys.unraisablehook = hook
    raise CheckpointError(told, exit_code=1 if full else 2)
