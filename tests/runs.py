"""What tests do with runs that train: wait for a moment, and look at what is left in the end."""

import time

import jax
import jax.numpy as jnp

from asyncthink_jax.report.metrics import read_metrics
from asyncthink_jax.training import experiment as experiment_lib
from asyncthink_jax.training.checkpoint import Checkpoints
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.restore import restore_params
from asyncthink_jax.training.state import TrainState


def without_times(lines):
    return [
        {name: value for name, value in line.items() if not name.endswith(("_seconds", "_per_second"))}
        for line in lines
    ]


def wait_for_lines(process, path, lines):
    """Returns when the metrics have so many lines."""
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, f"ended with {process.returncode} before line {lines} of {path}"
        time.sleep(0.005)


def what_is_left(config, workdir):
    """Everything that a run leaves and that doesn't tell the time."""
    built = experiment_lib.build(config, workdir)
    wanted = built.abstract_params()
    optimizer = make_optimizer(config.rl, config.rl.iterations * config.rl.optimizer_steps)
    state = jax.eval_shape(lambda p: TrainState(p, optimizer.init(p), jnp.zeros((), jnp.int32)), wanted)
    latest = Checkpoints(workdir / "checkpoints").restore(state)
    metadata = {name: value for name, value in latest.metadata.items() if name not in ("seconds", "position")}
    metrics = without_times(read_metrics(workdir / "metrics.jsonl"))
    params = {which: restore_params(built, workdir, which) for which in ("cold_start", "best")}
    return {"state": latest.state, **params}, {"step": latest.step, "metadata": metadata, "metrics": metrics}
