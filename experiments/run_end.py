"""The final state of a run, without times: two runs of the same steps end with equal bits."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from asyncthink_jax.config import Config
from asyncthink_jax.storage.checkpoint import Checkpoints
from asyncthink_jax.storage.metrics import read_metrics
from asyncthink_jax.storage.restore import restore_params
from asyncthink_jax.training import experiment as experiment_lib
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.optimizer_step import TrainState


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics without their times."""
    return [
        {name: value for name, value in line.items() if not name.endswith(("_seconds", "_per_second"))}
        for line in lines
    ]


def what_is_left(config: Config, workdir: Path) -> tuple[Any, dict[str, Any]]:
    """Arrays of the checkpoints, then step, metadata and metrics, without times."""
    built = experiment_lib.build(config, workdir)
    wanted = built.abstract_params()
    optimizer = make_optimizer(config.rl, config.rl.iterations * config.rl.optimizer_steps)
    state = jax.eval_shape(lambda p: TrainState(p, optimizer.init(p), jnp.zeros((), jnp.int32)), wanted)
    latest = Checkpoints(workdir / "checkpoints", read_only=True).restore(state)
    assert latest is not None
    metadata = {name: value for name, value in latest.metadata.items() if name not in ("seconds", "position")}
    metrics = without_times(read_metrics(workdir / "metrics.jsonl"))
    params = {which: restore_params(built.abstract_params(), workdir, which) for which in ("cold_start", "best")}
    return {"state": latest.state, **params}, {"step": latest.step, "metadata": metadata, "metrics": metrics}


def first_difference(ours: tuple[Any, dict[str, Any]], theirs: tuple[Any, dict[str, Any]]) -> str:
    """The first difference between two results of `what_is_left`, in words; "" if they are equal."""
    (arrays, facts), (other_arrays, other_facts) = ours, theirs
    for one, other in zip(facts["metrics"], other_facts["metrics"], strict=False):
        for name in one | other:
            if one.get(name) != other.get(name):
                place = f"{one['stage']} step {one['step']}"
                return f"{name} of {place}: {one.get(name)!r}, not {other.get(name)!r}"
    if facts != other_facts:
        return f"{len(facts['metrics'])} lines of metrics and {facts['metadata']}, not " + (
            f"{len(other_facts['metrics'])} and {other_facts['metadata']}"
        )
    same = jax.tree.map(np.array_equal, arrays, other_arrays)
    return next(
        (jax.tree_util.keystr(path) for path, alike in jax.tree_util.tree_leaves_with_path(same) if not alike), ""
    )
