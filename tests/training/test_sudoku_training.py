"""Sudoku from end to end: a cold start, an iteration of RL and an evaluation, at a size that trains in seconds."""

import dataclasses
import json

import pytest

from asyncthink_jax.config import (
    CheckpointConfig,
    Config,
    EvalConfig,
    PoolConfig,
    RLConfig,
    RolloutConfig,
    SFTConfig,
    to_json,
)
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.storage.metrics import Progress, read_metrics
from asyncthink_jax.storage.results import write_episodes
from asyncthink_jax.tasks import Sudoku
from asyncthink_jax.training import experiment
from asyncthink_jax.training.evaluation import evaluate
from asyncthink_jax.training.run import Run

CONFIG = Config(
    name="sudoku",
    task=Sudoku(words="rows", forks=8, train_problems=50, validation_problems=4, test_problems=6),
    pool=PoolConfig(max_forks=8),
    model=ModelConfig(vocab_size=0, layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp_width=64),
    rollout=RolloutConfig(slots=8, organizer_budget=40, worker_budget=24, context=64, prefill=0),
    sft=SFTConfig(steps=6, rows=4, row_length=512, number_init=False),
    rl=RLConfig(iterations=1, prompts=2, group_size=4, rows=8, row_length=128, imitated_demonstrations=2),
    eval=EvalConfig(validate_every=1, validation_problems=4),
    checkpoint=CheckpointConfig(every_sft_steps=3),
)


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", ["async", "parallel"])
def test_sudoku_is_trained_and_evaluated_like_any_task(tmp_path, paradigm):
    config = dataclasses.replace(CONFIG, paradigm=paradigm)
    built = experiment.build(config, tmp_path)
    (tmp_path / "config.json").write_text(to_json(config))
    with Progress({"sft": 6, "rl": 1}) as progress, Run(built, tmp_path, progress, paradigm) as run:
        run.reinforce(run.cold_start())
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["stage"] == "sft"]
    assert losses[-1] < losses[0]
    scores, episodes = evaluate(built, built.new_params(), "test", 1.0, samples=2)
    assert scores["n"] == 12 and set(scores["at_least"]) == {"1"}
    write_episodes(tmp_path / "episodes", episodes, built.tokenizer)
    lines = [json.loads(line) for line in (tmp_path / "episodes" / "episodes.jsonl").read_text().splitlines()]
    asked = [config.task.from_json(line["problem"]) for line in lines]
    assert asked == [problem for problem in built.splits["test"] for _ in range(2)]
    assert all(line["task"] == "sudoku" for line in lines)
