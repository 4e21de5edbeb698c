"""The parameters of a run, read by whoever evaluates, samples or exports them. Nothing in its folder is changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from asyncthink_jax.model.transformer import Params
from asyncthink_jax.training import bucket
from asyncthink_jax.training.checkpoint import CheckpointError, Checkpoints
from asyncthink_jax.training.experiment import Experiment


def cold_start_checkpoints(workdir: Path, read_only: bool = False) -> Checkpoints:
    """Where a run keeps the end of its cold start."""
    return Checkpoints(bucket.checkpoints(workdir) / "cold_start", keep=1, read_only=read_only)


def restore_params(experiment: Experiment, workdir: Path, which: str) -> Params:
    """The parameters of the checkpoint `which` of a run: "best" (by validation reward), "latest" or "cold_start".

    Raises CheckpointError if there is none, or if it can't be read.
    """
    wanted = experiment.abstract_params()
    if which == "cold_start":
        with cold_start_checkpoints(workdir, read_only=True) as checkpoints:
            found = checkpoints.restore(wanted)
    else:
        with Checkpoints(bucket.checkpoints(workdir), read_only=True) as checkpoints:
            if which == "best":
                found = checkpoints.restore_best(wanted)
            else:
                state = checkpoints.restore({"params": wanted}, partial=True)
                found = None if state is None else dataclasses.replace(state, state=state.state["params"])
    if found is None:
        raise CheckpointError(f"{workdir} has no checkpoint {which!r} yet")
    return found.state
