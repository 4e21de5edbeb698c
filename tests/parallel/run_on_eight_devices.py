"""A whole run on a mesh is that of one device; test_sharding.py runs this file with eight simulated devices."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from asyncthink_jax.config import Config, PoolConfig, RLConfig, RolloutConfig, SFTConfig
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.play.episodes import Played, play
from asyncthink_jax.storage.metrics import Progress, read_metrics
from asyncthink_jax.tasks import Countdown
from asyncthink_jax.training import grpo as grpo_lib
from asyncthink_jax.training.experiment import build
from asyncthink_jax.training.run import Run

SFT, RL = 5, 2  # steps, iterations
CONFIG = Config(
    name="tiny",
    task=Countdown(max_number=8, max_target=12, n_solutions=2, validation_problems=4, test_problems=4),
    pool=PoolConfig(agents=3),
    model=ModelConfig(vocab_size=0, layers=1, width=32, heads=8, kv_heads=8, head_dim=8, mlp_width=64),
    rollout=RolloutConfig(
        slots=16, organizer_budget=40, worker_budget=16, context=72, worker_context=40, feed_width=4, constrain=True,
        worker_rows=1, whole_cache=True,
    ),
    sft=SFTConfig(steps=SFT, rows=16, row_length=256, microbatches=2, warmup_steps=1),
    rl=RLConfig(iterations=RL, prompts=8, group_size=8, rows=32, row_length=128, learning_rate=1e-3),
)  # fmt: skip
# Five steps teach nobody to fork: RL starts from the end of a longer cold start, the same on every mesh.
TAUGHT = dataclasses.replace(CONFIG, sft=dataclasses.replace(CONFIG.sft, steps=150, warmup_steps=10))


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run has come to."""

    metrics: list[dict[str, float]]  # of the cold start and of RL
    played: list[Played]  # the rollouts of RL
    episodes: list[dict]  # of all of them, with `tokens`, `sampled`, `steps` of their traces
    logprobs: list[np.ndarray]  # of all tokens of each


def run_of(config, workdir, mesh, taught_by=None):
    progress = Progress({"sft": config.sft.steps, "rl": config.rl.iterations}, quiet=True)
    return Run(build(config, workdir, mesh), workdir, progress, "async", taught_by=taught_by)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The folder of a run whose cold start is over."""
    workdir = tmp_path_factory.mktemp("taught")
    with run_of(TAUGHT, workdir, make_mesh(devices=jax.devices()[:1])) as run:
        run.cold_start()
    return workdir


@pytest.fixture(scope="module")
def trained(taught, tmp_path_factory):
    """A cold start and RL with its rollouts on a mesh of so many devices.

    `like` another run its updates learn from the episodes of that one: where the mesh makes one of them another, by a
    draw that falls within rounding of another token, the updates after it can still be compared.
    """

    def train(sizes, devices, like=None):
        mesh, played = make_mesh(*sizes, devices), []

        def recorded(*arguments, **options):
            played.append(play(*arguments, **options))
            return like.played[len(played) - 1] if like else played[-1]

        first, second = tmp_path_factory.mktemp("cold_start"), tmp_path_factory.mktemp("rl")
        with run_of(CONFIG, first, mesh) as run:
            run.cold_start()
        with run_of(CONFIG, second, mesh, taught) as run, pytest.MonkeyPatch.context() as patch:
            patch.setattr(grpo_lib, "play", recorded)
            run.reinforce(run.cold_start())
            tokenizer = run.experiment.tokenizer
        attempts = [attempt for one in played for attempt in one.attempts]

        def facts(attempt):
            traces = attempt.episode.traces
            tracks = {name: [getattr(t, name).tolist() for t in traces] for name in ("tokens", "sampled", "steps")}
            return attempt.to_json(tokenizer.decode) | tracks

        return Trained(
            metrics=read_metrics(first / "metrics.jsonl") + read_metrics(second / "metrics.jsonl"),
            played=played,
            episodes=list(map(facts, attempts)),
            logprobs=[np.concatenate([trace.logprobs for trace in one.episode.traces]) for one in attempts],
        )

    return train


@pytest.fixture(scope="module")
def alone(trained):
    return trained((1, 1, 1), jax.devices()[:1])


def test_there_is_something_to_compare(alone):
    assert [line["stage"] for line in alone.metrics] == ["sft"] * SFT + ["rl"] * RL + ["validation"]
    assert all(line["loss"] for line in alone.metrics[:-1])
    assert len(alone.episodes) == RL * CONFIG.rl.prompts * CONFIG.rl.group_size
    assert any(episode["answer"] for episode in alone.episodes)
    assert any(len(episode["traces"]) > 2 for episode in alone.episodes)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_losses_and_episodes_are_those_of_one_device(trained, alone, sizes):
    got = trained(sizes, jax.devices(), like=alone)
    same = [mine == its for mine, its in zip(got.episodes, alone.episodes, strict=True)]
    assert same.count(False) <= 2  # of 128; one in 20 such runs has a draw within 1e-6 of another token
    for mine, its in itertools.compress(zip(got.logprobs, alone.logprobs, strict=True), same):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5)
    losses, expected = ([line["loss"] for line in one.metrics if "loss" in line] for one in (got, alone))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
