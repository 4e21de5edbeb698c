"""Runs of several real processes: the numbers of one process, and what happens when one is killed or asked to stop."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import processes
import pytest
from runs import wait_for_lines, what_is_left, without_times

from asyncthink_jax.config import load
from asyncthink_jax.storage.metrics import read_metrics

TINY = '''"""A run of seconds, whose episodes earn something: they are well-formed, and some fork more than others."""

from asyncthink_jax.config import (
    CheckpointConfig, Config, EvalConfig, PoolConfig, RLConfig, RolloutConfig, SFTConfig
)
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.tasks import Countdown


def get_config():
    return Config(
        name="tiny",
        task=Countdown(max_number=8, max_target=12, n_solutions=2, validation_problems=4, test_problems=4),
        pool=PoolConfig(agents=3),
        model=ModelConfig(vocab_size=0, layers=1, width=32, heads=2, kv_heads=2, head_dim=16, mlp_width=64),
        rollout=RolloutConfig(slots=8, organizer_budget=12, worker_budget=6, context=20, constrain=True),
        sft=SFTConfig(steps=10, rows=8, row_length=128, optimizer="adamw", learning_rate=5e-3, warmup_steps=1),
        rl=RLConfig(iterations=4, prompts=8, group_size=16, rows=16, row_length=64, learning_rate=1e-3),
        eval=EvalConfig(validate_every=2, validation_problems=4, temperatures=(0.7,)),
        checkpoint=CheckpointConfig(every_sft_steps=4, every_rl_iterations=3),
    )
'''


LOCAL = pathlib.Path(__file__).parents[2] / "launch" / "local.sh"
SFT, RL, VALIDATIONS = 10, 4, 2  # lines of metrics


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Starts a run in so many processes, with so many devices in each. What was compiled once is read again."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "tiny.py").write_text(TINY)
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
    env = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip(),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run(count, workdir, *flags, devices=2, command="train"):
        workdir.parent.mkdir(exist_ok=True)
        where = ["--workdir", workdir] + (["--config", folder / "tiny.py"] if command == "train" else [])
        program = ["-m", f"asyncthink_jax.{command}"]
        return processes.start(count, program, *where, *flags, devices=devices, folder=workdir.parent, env=env)

    run.config, run.env = folder / "tiny.py", env
    return run


def done(started, folder):
    """Waits for a run to be done."""
    count = len(started)
    assert processes.codes(started) == [0] * count, processes.said(folder, "err", count)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "mesh"),
    [(2, ["--config.mesh.fsdp=2", "--config.mesh.tensor=2"]), (4, ["--config.mesh.data=8"])],
    ids=["2", "4"],
)
def test_the_numbers_are_those_of_one_process(train, tmp_path, count, mesh, sweep):
    if count > 2 and sweep == 1:
        pytest.skip("minutes of compilation on two cores: with --sweep 2")
    alone, together = tmp_path / "alone" / "run", tmp_path / "together" / "run"
    done(train(1, alone, *mesh, devices=2 * count), alone.parent)
    together.parent.mkdir()
    launched = subprocess.run(
        [LOCAL, str(count), train.config, together, *mesh],
        env=os.environ | train.env | {"PYTHON": sys.executable, "DEVICES": "2"},
        capture_output=True,
        text=True,
    )
    assert launched.returncode == 0, launched.stderr

    expected, got = (without_times(read_metrics(run / "metrics.jsonl")) for run in (alone, together))
    assert [sorted(line) for line in got] == [sorted(line) for line in expected]
    # Several processes add up in another order. After an update a draw may fall within rounding of another token, and
    # one of 128 episodes be another: from the second iteration on the numbers are those of nearly the same episodes.
    for n, (line, other) in enumerate(zip(got, expected, strict=True)):
        assert line.pop("stage") == other.pop("stage")
        rel, absolute = (1e-4, 1e-6) if n <= SFT else (0.1, 0.1)
        assert line == pytest.approx(other, rel=rel, abs=absolute), line
    losses, others = ([line["loss"] for line in lines[:SFT]] for lines in (got, expected))
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    assert any("loss" in line for line in expected[SFT:]), "nothing was learned"

    expected, got = (json.loads((run / "results.json").read_text())["paradigms"]["async"] for run in (alone, together))
    assert expected.keys() == got.keys() == {"after_sft", "after_rl"}
    for stage, scores in expected.items():
        for name in ("n", "accuracy", "critical_path", "concurrency", "forks", "tokens", "reward"):
            assert got[stage][name] == pytest.approx(scores[name], rel=0.1, abs=0.1), f"{stage}, {name}"
    episodes = list(zip(without_logprobs(together), without_logprobs(alone), strict=True))
    assert sum(mine != its for mine, its in episodes) <= 1 < len(episodes)

    # The first process alone prints.
    assert "results" in launched.stdout
    for process in range(1, count):
        log = (together.parent / f"run.process{process}.log").read_text().splitlines()
        # XLA's own, which its threads may cut in the middle.
        assert [line for line in log if line.strip() and "Gloo" not in line and "peer ranks" not in line] == []


def without_logprobs(run):
    """The test episodes: text, and who forked and joined what when."""
    return (run / "eval" / "async" / "episodes.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    done(train(2, workdir), workdir.parent)
    return workdir


def assert_same_bits(train, run, undisturbed):
    config = load(train.config)
    arrays, facts = what_is_left(config, undisturbed)
    own_arrays, own_facts = what_is_left(config, run)
    assert own_facts == facts
    jax.tree.map(np.testing.assert_array_equal, own_arrays, arrays)


@pytest.mark.slow
def test_the_others_end_when_one_is_killed_and_the_rerun_resumes(train, undisturbed, tmp_path):
    workdir = tmp_path / "runs" / "run"
    for killed, moment in ((1, SFT // 2), (0, SFT + 2)):
        started = train(2, workdir)
        wait_for_lines(started[killed], workdir / "metrics.jsonl", moment)
        started[killed].kill()
        at = time.monotonic()
        code = processes.codes(started)[1 - killed]
        assert time.monotonic() - at < 60
        line = processes.said(workdir.parent, "err", 2)[1 - killed]
        assert code not in (0, 2) and ("another has ended" in line or "another task died" in line), line
    done(train(2, workdir), workdir.parent)
    assert_same_bits(train, workdir, undisturbed)


@pytest.mark.slow
def test_all_stop_when_one_is_asked_to(train, undisturbed, tmp_path):
    workdir = tmp_path / "runs" / "run"
    for asked, moment in ((1, SFT // 2), (0, SFT + 1)):
        started = train(2, workdir)
        wait_for_lines(started[0], workdir / "metrics.jsonl", moment)
        started[asked].send_signal(signal.SIGTERM)
        at = time.monotonic()
        assert processes.codes(started) == [0, 0], processes.said(workdir.parent, "err", 2)
        assert time.monotonic() - at < 30
        assert len(read_metrics(workdir / "metrics.jsonl")) < SFT + RL + VALIDATIONS
    done(train(2, workdir), workdir.parent)
    assert_same_bits(train, workdir, undisturbed)


@pytest.mark.slow
def test_a_run_is_scored_by_several_processes_as_by_one(train, undisturbed, tmp_path):
    done(train(2, undisturbed, "--split=validation", "--temperature=0.5", command="evaluate"), undisturbed.parent)
    folder = undisturbed / "eval" / "async_best_validation_t0.5"
    episodes = (folder / "episodes.jsonl").read_text()
    done(train(1, undisturbed, "--split=validation", "--temperature=0.5", command="evaluate"), undisturbed.parent)
    assert (folder / "episodes.jsonl").read_text() == episodes and episodes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--config.mesh.data=3", "mesh data=3 x fsdp=1 x tensor=1 doesn't fit 4 devices"),
        ("--results=nowhere", "--results nowhere is no folder"),
    ],
)
def test_what_is_refused_ends_all_with_one_line_of_the_first(train, tmp_path, flag, says):
    started = train(2, tmp_path / "runs" / "run", flag)
    assert processes.codes(started, timeout=60) == [2, 2]
    error, silent = processes.said(tmp_path / "runs", "err", 2)
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error
    assert silent == ""
