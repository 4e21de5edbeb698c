"""The parameters of a run, read by whoever evaluates, samples or exports them. Nothing in its folder is changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from asyncthink_jax.model.transformer import Params
from asyncthink_jax.storage import bucket
from asyncthink_jax.storage.checkpoint import CheckpointError, Checkpoints, DamagedCheckpointError


def cold_start_checkpoints(workdir: Path, read_only: bool = False) -> Checkpoints:
    """Where a run keeps the end of its cold start."""
    return Checkpoints(bucket.checkpoints(workdir) / "cold_start", keep=1, read_only=read_only)


def restore_params(wanted: Params, workdir: Path, which: str) -> Params:
    """The parameters of the checkpoint `which` of a run: "best" (by validation reward), "latest" or "cold_start".

    `wanted` has their shapes, types and shardings. Raises CheckpointError if there is none, or if it can't be read.
    """
    with (
        Checkpoints(bucket.checkpoints(workdir), read_only=True) as checkpoints,
        cold_start_checkpoints(workdir, read_only=True) as cold_start,
    ):
        try:
            if which == "cold_start":
                found = cold_start.restore(wanted)
            elif which == "best":
                found = checkpoints.restore_best(wanted)
            else:
                state = checkpoints.restore({"params": wanted}, partial=True)
                found = None if state is None else dataclasses.replace(state, state=state.state["params"])
        except DamagedCheckpointError as error:
            raise CheckpointError(f"{error}; {_LOST[which]}") from error
    if found is None:
        raise CheckpointError(f"{workdir} has no checkpoint {which!r} yet")
    return found.state


_LOST = {
    "best": "the parameters with the best validation reward are lost: --checkpoint latest takes those of the last step",
    "latest": "the command that trained the run goes on from the one before it; --checkpoint best may still be whole",
    "cold_start": "--checkpoint best or latest takes what RL has made of it",
}
