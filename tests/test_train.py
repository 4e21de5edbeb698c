"""The commands: bad input gets one line and exit code 2, a killed run ends with the bits of an undisturbed one."""

import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from runs import wait_for_lines, what_is_left

from asyncthink_jax import train
from asyncthink_jax.command import split_argv
from asyncthink_jax.config import load, to_json
from asyncthink_jax.storage.checkpoint import Checkpoints
from asyncthink_jax.storage.metrics import read_metrics
from asyncthink_jax.storage.restore import cold_start_checkpoints
from asyncthink_jax.tasks import Countdown, Task
from asyncthink_jax.training import experiment as experiment_lib
from experiments.run_end import first_difference

SHORTENED = '''"""The demo at a size that trains in seconds."""

from asyncthink_jax.config import CheckpointConfig, Config, EvalConfig, RLConfig, RolloutConfig, SFTConfig
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.tasks import Countdown


def get_config():
    return Config(
        name="shortened",
        task=Countdown(max_number=12, validation_problems=4, test_problems=4),
        model=ModelConfig(vocab_size=0, layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp_width=64),
        rollout=RolloutConfig(slots=8, organizer_budget=14, worker_budget=8, context=24),
        sft=SFTConfig(steps=40, rows=8),
        rl=RLConfig(iterations=10, prompts=2, group_size=4, rows=8, row_length=64),
        eval=EvalConfig(validate_every=3, validation_problems=2),
        checkpoint=CheckpointConfig(every_sft_steps=7, every_rl_iterations=2),
    )
'''


@pytest.fixture(scope="module")
def shortened(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiments") / "shortened.py"
    path.write_text(SHORTENED)
    return path


@pytest.fixture(scope="module")
def set_up(shortened, tmp_path_factory):
    """A run that has its config, problems and tokenizer, but nothing trained."""
    folder = tmp_path_factory.mktemp("runs") / "set_up"
    folder.mkdir()
    experiment_lib.build(load(shortened), folder)
    (folder / "config.json").write_text(to_json(load(shortened)))
    return folder


@pytest.fixture
def workdir(set_up, tmp_path):
    return shutil.copytree(set_up, tmp_path / "run")


SCORES = {"n": 1, "at_least": {}, "critical_path": 1, "concurrency": 1}  # what results.json has of each row, at least

# --- Bad input.

compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compilations.append(seconds) if "backend_compile" in event else None
)


@pytest.fixture
def refused(capsys):
    """Gives the command arguments that it must refuse; returns the line it says."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments):
        compilations.clear()
        others, overrides = split_argv(["train", *map(str, arguments)])
        with flagsaver.flagsaver():
            code = train.main(train.FLAGS(others), overrides)
        printed = capsys.readouterr()
        assert code == 2 and printed.out == ""
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and len(printed.err) < 500
        assert sum(compilations) < 0.5, "more was compiled than it takes to lay out a constant"
        return printed.err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rl.learning_rat=1", "did you mean 'rl.learning_rate'"),
        ("seed=many", "'seed': 'many' is not a whole number"),
        ("rl.tau=0", "'rl.tau' is 0.0, must be from 0.001 to 1"),
        ("rl.wrong_penalty=2", "no format error may earn more than that"),
        ("paradigm=asynch", "'asynch' is not one of async, sequential, parallel; did you mean 'async'"),
        ("mesh.data=64", "mesh data=64 x fsdp=1 x tensor=1 doesn't fit "),
        ("model.vocab_size=77", "model.vocab_size is 77, the tokenizer "),
        ("task.test_problems=1000000", "task: "),
        ("task.max_numbr=9", "did you mean 'task.max_number'"),
        ("data.demonstrations=/nowhere/shown.jsonl", "data.demonstrations: there is no file /nowhere/shown.jsonl"),
        ("sft.row_length=9", "row_length 9 is too short for the demonstrations"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(shortened, tmp_path, refused, override, says):
    assert says in refused("--config", shortened, "--workdir", tmp_path / "run", f"--config.{override}")
    assert not (tmp_path / "run" / "config.json").exists(), "the folder must stay free for the right command"


SUDOKU = ("task.name=sudoku", "task.forks=7", "task.train_problems=9", "task.test_problems=2")


@pytest.mark.parametrize(("fields", "forks", "ids"), [(SUDOKU, 7, 6), (("pool.max_forks=5",), 6, 5)])
def test_demonstrations_that_fork_more_than_the_pool_has_ids_are_refused(
    shortened, tmp_path, refused, fields, forks, ids
):
    line = refused("--config", shortened, "--workdir", tmp_path / "run", *(f"--config.{field}" for field in fields))
    assert f"demonstrations fork up to {forks} sub-queries, pool.max_forks is only {ids}" in line


def test_a_file_of_demonstrations_that_break_the_protocol_is_refused(shortened, tmp_path, refused):
    shown = tmp_path / "shown.jsonl"
    record = {"problem": {"numbers": [2, 3, 4, 5], "target": 9, "n_solutions": 4}, "organizer": ["<JOIN-1>"]}
    shown.write_text(json.dumps(record))
    line = refused("--config", shortened, "--workdir", tmp_path / "run", f"--config.data.demonstrations={shown}")
    assert f"{shown}, line 1: piece 0 of the organizer, '<JOIN-1>': join_unknown" in line


def test_a_task_that_no_program_demonstrates_needs_a_file_or_no_cold_start(shortened, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(Countdown, "script", Task.script)
    line = refused("--config", shortened, "--workdir", tmp_path / "run")
    assert "no program writes demonstrations of countdown_tiny" in line and "data.demonstrations" in line


def test_missing_and_superfluous_arguments_are_named(shortened, tmp_path, refused):
    assert "--config is missing" in refused("--workdir", tmp_path)
    assert "--workdir is missing" in refused("--config", shortened)
    assert "unexpected argument 'now'" in refused("--config", shortened, "--workdir", tmp_path, "now")


def test_a_config_file_that_is_none_is_refused(tmp_path, refused):
    missing, broken = tmp_path / "nowhere.py", tmp_path / "broken.py"
    assert f"config file not found: {missing}" in refused("--config", missing, "--workdir", tmp_path / "run")
    broken.write_text("def get_config():\n    return 1 / 0\n")
    assert "broken.py: ZeroDivisionError" in refused("--config", broken, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_used_is_refused(shortened, tmp_path, refused):
    far, file, nowhere = tmp_path / "no" / "such" / "run", tmp_path / "file", tmp_path / "nowhere"
    assert f"{far.parent} does not exist" in refused("--config", shortened, "--workdir", far)
    file.touch()
    assert f"workdir {file} is a file" in refused("--config", shortened, "--workdir", file)
    line = refused("--config", shortened, "--workdir", tmp_path / "run", "--results", nowhere)
    assert f"--results {nowhere} is no folder" in line


def test_rows_of_another_run_are_not_taken_for_ones_own(shortened, workdir, refused, tmp_path):
    (workdir / "results.json").write_text(json.dumps({"paradigms": {"async": {"after_rl": SCORES}}}))
    line = refused("--config", shortened, "--workdir", tmp_path / "other", "--results", workdir)
    assert f"{workdir} has rows of 'async', which this run has not made: give it another --name" in line


def test_a_folder_in_which_another_command_trains_is_refused(shortened, workdir, refused):
    other = os.open(workdir, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert f"workdir {workdir} is in use by another process" in refused("--config", shortened, "--workdir", workdir)
    os.close(other)


def test_a_resume_with_another_config_is_refused_with_what_differs(shortened, workdir, refused):
    line = refused("--config", shortened, "--workdir", workdir, "--config.seed=1", "--config.rl.tau=0.5")
    assert "seed: saved 0, now 1" in line and "rl.tau: saved 0.8, now 0.5" in line
    (workdir / "config.json").write_text("{")
    assert "config.json is no JSON" in refused("--config", shortened, "--workdir", workdir)


def test_a_longer_run_is_asked_for_by_extend(shortened, workdir, refused, tmp_path):
    longer = ["--config", shortened, "--config.rl.iterations=12"]
    line = refused(*longer, "--workdir", workdir)
    assert "rl.iterations: saved 10, now 12; --extend makes the run longer" in line
    line = refused(*longer, "--workdir", workdir, "--extend", "--config.seed=1")
    assert "seed: saved 0, now 1" in line and "rl.iterations" not in line
    assert "holds no run to continue" in refused(*longer, "--workdir", tmp_path / "new", "--extend")
    shorter = ["--config", shortened, "--config.rl.iterations=6", "--workdir", workdir]
    assert "a run only becomes longer" in refused(*shorter, "--extend")
    assert "--extend" not in refused(*shorter)
    assert load(workdir / "config.json") == load(shortened), "the run is as it was"


def test_a_run_cannot_begin_at_two_places(shortened, tmp_path, refused):
    flags = ["--cold_start", tmp_path, "--start_from", tmp_path]
    line = refused("--config", shortened, "--workdir", tmp_path / "run", *flags)
    assert "nothing begins at start_from" in line


def test_a_saved_tokenizer_of_another_size_is_refused(shortened, workdir, refused):
    config = load(shortened, ["model.vocab_size=5"])
    (workdir / "config.json").write_text(to_json(config))
    line = refused("--config", shortened, "--workdir", workdir, "--config.model.vocab_size=5")
    assert f"model.vocab_size is 5, the tokenizer {workdir / 'tokenizer.model'} has " in line


def test_rl_whose_cold_start_is_gone_is_refused(shortened, workdir, refused):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(47, {"x": np.ones(3)}, {"stage": "rl", "step": 7, "position": 0, "seconds": {}})
    folder = workdir / "checkpoints" / "latest" / "47"
    line = refused("--config", shortened, "--workdir", workdir)
    assert f"{folder} is of RL, and the cold start that it began from is gone: give one of the same config" in line


def test_a_cold_start_that_is_not_there_is_refused(shortened, workdir, refused, tmp_path):
    line = refused("--config", shortened, "--workdir", workdir, "--cold_start", tmp_path)
    assert f"no finished cold start in {tmp_path}" in line


def in_a_process(program, *arguments, devices=1, **options):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | options.pop("env", {})
    return subprocess.Popen([sys.executable, *program, *map(str, arguments)], env=environment, text=True, **options)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["mesh.data=2", "mesh.fsdp=4", "rollout.slots=12"],
            "rollout.slots is 12, but must be a multiple of mesh.data",
        ),
        pytest.param(["sft.microbatches=2"], "sft.rows / sft.microbatches is 4, but", marks=pytest.mark.slow),
        pytest.param(["mesh.tensor=8"], "mesh axis tensor=8 doesn't divide ", marks=pytest.mark.slow),
    ],
)
def test_the_process_says_one_line_and_exits_with_2(shortened, tmp_path, overrides, says):
    process = in_a_process(
        ["-m", "asyncthink_jax.train"],
        *("--config", shortened, "--workdir", tmp_path / "run"),
        *(f"--config.{override}" for override in overrides),
        devices=8,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


# --- Numbers that aren't finite.


def test_a_run_that_diverges_ends_at_that_step_with_one_line_and_keeps_what_is_good(shortened, workdir, capsys):
    fields = ["sft.learning_rate=1e30", "sft.adam_learning_rate=1e30", "checkpoint.every_sft_steps=1"]
    config = load(shortened, fields)
    (workdir / "config.json").write_text(to_json(config))
    others, _ = split_argv(["train", "--config", str(shortened), "--workdir", str(workdir)])
    with flagsaver.flagsaver():
        assert train.main(train.FLAGS(others), fields) == 3
    error = capsys.readouterr().err
    assert re.match(r"error: sft has diverged at step 2: (loss|gradient_norm) is (nan|inf); the last good ", error)
    assert f"is {workdir / 'checkpoints' / 'latest' / '1'}; in a new run lower sft.learning_rate (1e+30)" in error
    assert "or go on with --config.sft.skip_nonfinite=10" in error and error.count("\n") == 1
    assert [path.name for path in (workdir / "checkpoints" / "latest").iterdir()] == ["1"]
    assert not list((workdir / "checkpoints" / "cold_start" / "latest").iterdir())
    assert [line["step"] for line in read_metrics(workdir / "metrics.jsonl")] == [1]


# --- Scoring.


def evaluated(workdir, *arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = in_a_process(["-m", "asyncthink_jax.evaluate"], "--workdir", workdir, *arguments, **pipes)
    return process.communicate(), process.returncode


def test_a_checkpoint_is_scored_and_what_was_scored_names_the_folder(workdir):
    built = experiment_lib.build(load(workdir / "config.json"), workdir)
    with cold_start_checkpoints(workdir) as checkpoints:
        checkpoints.save(1, built.new_params(), {})
    how = ["--checkpoint=cold_start", "--split=validation", "--problems=3", "--samples=2", "--temperature=0.5"]
    (out, error), code = evaluated(workdir, *how, "--config.rollout.top_p=0.9", "--results", workdir, "--name=narrow")
    assert code == 0, error
    row = json.loads((workdir / "results.json").read_text())["paradigms"]["narrow"]["after_sft_t0.5"]
    assert row["n"] == 6 and row["commit"] and row["wall_clock_s"].keys() == {"eval"}
    folder = workdir / "eval" / "async_cold_start_validation_t0.5_rollout.top_p=0.9"
    assert json.loads((folder / "scores.json").read_text())["n"] == 6
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    problems = [tuple(episode["problem"]["numbers"]) for episode in episodes]
    assert problems == [tuple(problem.numbers) for problem in built.splits["validation"][:3] for _ in range(2)]
    assert "validation split" in out


@pytest.mark.slow
def test_another_paradigm_and_other_numbers_are_scored_into_another_runs_table(workdir, tmp_path):
    built = experiment_lib.build(load(workdir / "config.json"), workdir)
    with cold_start_checkpoints(workdir) as checkpoints:
        checkpoints.save(1, built.new_params(), {})
    table = tmp_path / "table"
    table.mkdir()
    (table / "results.json").write_text(json.dumps({"paradigms": {"async": {"after_rl": SCORES}}}))
    how = ["--checkpoint=cold_start", "--temperature=0", "--paradigm=parallel", "--results", table, "--name=votes"]
    (_, error), code = evaluated(workdir, *how, "--config.task.numbers=3", "--config.task.n_solutions=1")
    assert code == 0, error
    rows = json.loads((table / "results.json").read_text())["paradigms"]
    assert rows.keys() == {"async", "votes"} and rows["votes"].keys() == {"after_sft_greedy"}
    assert rows["votes"]["after_sft_greedy"]["n"] == 4
    episodes = next((workdir / "eval").rglob("episodes.jsonl")).read_text().splitlines()
    assert {len(json.loads(episode)["problem"]["numbers"]) for episode in episodes} == {3}


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--results=/nowhere", "--results /nowhere is no folder"),
        ("--config.task.max_target=300", "task: the tokenizer of this run has no token for "),
        ("--checkpoint=last", "'last' is not one of best, latest, cold_start"),
        ("--split=tests", "'tests' is not one of train, train_few, validation, test"),
        ("--samples=2", "no checkpoint 'best'"),
        ("--config.task.name=sudoku", "only a run from a pretrained model can be asked another task"),
    ],
)
def test_what_cannot_be_scored_is_refused(workdir, argument, says):
    (out, error), code = evaluated(workdir, argument)
    assert (code, out) == (2, "")
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_a_folder_that_is_not_there_holds_no_run(tmp_path):
    (_, error), code = evaluated(tmp_path / "nowhere")
    assert (code, error) == (2, f"error: --workdir {tmp_path / 'nowhere'} holds no run (no config.json in it)\n")


# --- Kills.

NO_TABLE = "--noevaluate"

# A model of this size and age answers nothing: the reward of these runs is one that every episode can earn.
PROGRAM = """
from asyncthink_jax import command, train
from asyncthink_jax.training import grpo

grpo.reward = lambda config, episode, score: float(sum(int(trace.tokens.sum()) for trace in episode.traces) % 5)
command.run(train.main)
"""


@pytest.fixture(scope="module")
def start(shortened, tmp_path_factory):
    """Starts the shortened run in a folder, or goes on with it. What was compiled once is not compiled again."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run(workdir, *arguments):
        with open(workdir.with_suffix(".stdout"), "w") as out, open(workdir.with_suffix(".stderr"), "w") as error:
            return in_a_process(
                [folder / "program.py"],
                *("--config", shortened, "--workdir", workdir, *arguments),
                env=cache,
                stdout=out,
                stderr=error,
            )

    return run


# A cold start of some more steps, and rollouts that take a while: 64 episodes, of which none ends with a format error.
LONG = [
    "--config.sft.steps=100",
    "--config.rollout.constrain=true",
    "--config.rollout.organizer_budget=100",
    "--config.rollout.context=128",
    "--config.rl.row_length=128",
    "--config.rl.prompts=16",
    "--config.rl.iterations=12",
]


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_ends_with_the_bits_of_an_undisturbed_one(
    shortened, start, tmp_path, sweep
):
    config, seed = load(shortened, [flag.removeprefix("--config.") for flag in LONG]), time.time_ns() % 10**6
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert start(undisturbed, NO_TABLE, *LONG).wait() == 0, undisturbed.with_suffix(".stderr").read_text()
    lines = read_metrics(undisturbed / "metrics.jsonl")
    rollout = min(line["rollout_seconds"] for line in lines if line["stage"] == "rl")

    rng, metrics = random.Random(seed), disturbed / "metrics.jsonl"

    def stopped(lines, seconds):
        """Asks the run to stop so long after so many lines of metrics; returns how many there are then."""
        process = start(disturbed, NO_TABLE, *LONG)
        wait_for_lines(process, metrics, lines)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        assert process.wait() == 0, f"seed {seed}: {disturbed.with_suffix('.stderr').read_text()}"
        assert time.monotonic() - asked < 30, f"seed {seed}"
        assert "the same command goes on from here" in disturbed.with_suffix(".stderr").read_text()
        saved = Checkpoints(disturbed / "checkpoints", read_only=True).latest_metadata()
        again = [json.loads(line)["stage"] for line in metrics.read_bytes()[saved["position"] :].splitlines()]
        # Only a validation that this sitting has made up for: with the next iteration it would have been saved.
        assert again == ["validation"] * bool(again and saved["validates"]), f"seed {seed}: done, but not saved"
        return metrics.read_bytes().count(b"\n")

    there, in_rollouts, times = 0, 0, min(2 + sweep, 5)
    for _ in range(times):
        there = stopped(there + rng.randint(1, 10), rng.uniform(0, 0.02))
        assert there < config.sft.steps
    there = config.sft.steps
    for _ in range(times):
        before, there = there, stopped(there + 1, rng.uniform(0, 0.8 * rollout))
        in_rollouts += there == before + 1  # the next iteration, or a validation, was given up
    assert in_rollouts >= times - 2, f"seed {seed}: all but {in_rollouts} rollouts had ended"
    assert start(disturbed, NO_TABLE, *LONG).wait() == 0

    arrays, facts = what_is_left(config, undisturbed)
    arrays_after_stops, facts_after_stops = what_is_left(config, disturbed)
    assert facts_after_stops == facts, f"seed {seed}"
    jax.tree.map(np.testing.assert_array_equal, arrays_after_stops, arrays)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_what_it_has_done(shortened, start, tmp_path):
    folder = tmp_path / "run"
    for number, code, moment, stage in ((signal.SIGTERM, 0, 10, "sft"), (signal.SIGINT, 130, 45, "rl")):
        process = start(folder, NO_TABLE)
        wait_for_lines(process, folder / "metrics.jsonl", moment)
        process.send_signal(number)
        assert process.wait() == code
        metadata = Checkpoints(folder / "checkpoints").latest_metadata()
        last = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if line["stage"] == stage][-1]
        assert (metadata["stage"], metadata["step"]) == (stage, last)
        assert metadata["position"] == (folder / "metrics.jsonl").stat().st_size


@pytest.mark.slow
def test_an_extended_run_ends_as_one_that_was_that_long_from_the_start(shortened, start, tmp_path):
    # So that the schedules of a short and a long run are alike where both have steps.
    constant = [f"{stage}.{field}" for stage in ("sft", "rl") for field in ("final_fraction=1", "warmup_steps=3")]
    config, flags = load(shortened, constant), [f"--config.{field}" for field in constant]
    long, extended = tmp_path / "long", tmp_path / "extended"
    assert start(long, *flags, NO_TABLE).wait() == 0
    for sft, rl in ((20, 0), (40, 6), (40, 10)):
        more = ["--extend"] if extended.exists() else []
        lengths = [f"--config.sft.steps={sft}", f"--config.rl.iterations={rl}"]
        process = start(extended, *flags, *lengths, *more, NO_TABLE)
        assert process.wait() == 0, extended.with_suffix(".stderr").read_text()
    assert first_difference(what_is_left(config, extended), what_is_left(config, long)) == ""


@pytest.mark.slow
def test_after_the_end_the_same_command_prints_the_table_at_once(start, tmp_path):
    folder = tmp_path / "run"
    assert start(folder).wait() == 0, folder.with_suffix(".stderr").read_text()
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert {"results.json", "episodes.jsonl", "metrics.jsonl", "config.json"} <= {path.name for path in files}
    table = folder.with_suffix(".stdout").read_text()
    assert start(folder).wait() == 0
    again = folder.with_suffix(".stdout").read_text()
    assert len(again.splitlines()) > 3 and table.endswith(again)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == files
