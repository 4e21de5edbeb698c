"""What a run leaves in the end: two runs of the same steps leave the same, to the bit."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from asyncthink_jax.config import Config
from asyncthink_jax.report.metrics import read_metrics
from asyncthink_jax.training import experiment as experiment_lib
from asyncthink_jax.training.checkpoint import Checkpoints
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.restore import restore_params
from asyncthink_jax.training.state import TrainState


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics without the numbers that tell the time."""
    return [
        {name: value for name, value in line.items() if not name.endswith(("_seconds", "_per_second"))}
        for line in lines
    ]


def what_is_left(config: Config, workdir: Path) -> tuple[Any, dict[str, Any]]:
    """Arrays of the checkpoints, then step, metadata and metrics: all that doesn't tell the time."""
    built = experiment_lib.build(config, workdir)
    wanted = built.abstract_params()
    optimizer = make_optimizer(config.rl, config.rl.iterations * config.rl.optimizer_steps)
    state = jax.eval_shape(lambda p: TrainState(p, optimizer.init(p), jnp.zeros((), jnp.int32)), wanted)
    latest = Checkpoints(workdir / "checkpoints", read_only=True).restore(state)
    assert latest is not None
    metadata = {name: value for name, value in latest.metadata.items() if name not in ("seconds", "position")}
    metrics = without_times(read_metrics(workdir / "metrics.jsonl"))
    params = {which: restore_params(built, workdir, which) for which in ("cold_start", "best")}
    return {"state": latest.state, **params}, {"step": latest.step, "metadata": metadata, "metrics": metrics}
