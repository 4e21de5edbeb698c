"""The driver of the studies: what is finished is not run again; after a failure or a stop the same command goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asyncthink_jax.config import to_json
from experiments import reproduce, table
from experiments.studies import BY_NAME, runs_of

ROOT = Path(__file__).resolve().parents[1]

# Takes the place of `python -m`: leaves the files of a run that had no time to learn anything. What `orders.json` says
# of a study it does once: exit with a code, or send its parent a signal and wait for what is passed on.
COMMAND = """
import json, os, pathlib, shutil, signal, sys

words, here = sys.argv[1:], pathlib.Path(__file__).parent
value = lambda flag: words[words.index(flag) + 1]
workdir, table, name = pathlib.Path(value("--workdir")), pathlib.Path(value("--results")), value("--name")
with open(here / "calls", "a") as file:
    file.write(json.dumps(words) + "\\n")
orders = json.loads((here / "orders.json").read_text())
order = orders.pop(name, 0)
(here / "orders.json").write_text(json.dumps(orders))
trains = words[0] == "asyncthink_jax.train"
if trains:
    workdir.mkdir(exist_ok=True)
    shutil.copy(here / f"{workdir.name}.json", workdir / "config.json")
assert (workdir / "config.json").exists()
if isinstance(order, str):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit((here / "asked").touch()))
    signal.alarm(20)  # ends it unasked, where nothing is passed on
    os.kill(os.getppid(), getattr(signal, order))
    if signal.getsignal(getattr(signal, order)) == signal.SIG_IGN:
        order = 0
    else:
        signal.pause()
if order:
    sys.exit(order)
path = table / "results.json"
results = json.loads(path.read_text()) if path.exists() else {"date": "of the run", "paradigms": {}}
rows = ["after_sft", "after_rl"] if trains else ["after_rl"]
samples = int(next((word.partition("=")[2] for word in words if word.startswith("--config.eval.samples=")), 1))
scores = {"n": 600, "critical_path": 1, "concurrency": 1, "at_least": {}}  # what a table has to hold
row = scores | {"of": workdir.name, "temperature": 0.6, "samples": samples}
results["paradigms"][name] = dict.fromkeys(rows, row)
path.write_text(json.dumps(results))
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Runs the driver with a command that only leaves files; gives its exit code, and the calls of that command."""
    fake, runs, results = tmp_path / "fake", tmp_path / "runs", tmp_path / "results"
    for folder in (fake, results):
        folder.mkdir()
    (fake / "command.py").write_text(COMMAND)
    for study, seed in runs_of(["tiny", "studies"]):
        step = reproduce.Step(study, seed, runs, ())
        if not study.scores:
            (fake / f"{step.folder.name}.json").write_text(to_json(step.config()))
    monkeypatch.setattr(reproduce, "PYTHON", (sys.executable, str(fake / "command.py")))
    monkeypatch.setattr(reproduce, "RESULTS", results)
    monkeypatch.setattr(table, "write", lambda: [])

    def run(*arguments, **orders):
        (fake / "orders.json").write_text(json.dumps(orders))
        (fake / "calls").write_text("")
        code = reproduce.main(["--runs", str(runs), *arguments])
        calls = [json.loads(line) for line in (fake / "calls").read_text().splitlines()]
        return code, [(call[call.index("--name") + 1], Path(call[call.index("--workdir") + 1]).name) for call in calls]

    run.runs, run.results, run.asked = runs, results, fake / "asked"
    # Whoever runs the tests may have set them, as nohup does.
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


FIRST = [
    ("async", "countdown_tiny"),
    ("async_without_concurrency", "countdown_tiny_async_without_concurrency"),
    ("sequential", "countdown_tiny_sequential"),
    ("parallel", "countdown_tiny_sequential"),
    ("parallel_2", "countdown_tiny_sequential"),
    ("parallel_cut", "countdown_tiny_sequential"),
    ("async_without_cold_start", "countdown_tiny_async_without_cold_start"),
]
ONE_SEED = ("--seeds", "1", "--only", ",".join(name for name, _ in FIRST))


def test_every_study_runs_once_in_order_and_its_rows_are_kept(driver, capsys):
    code, calls = driver()
    assert code == 0 and len(calls) == len(runs_of(["tiny"]))
    assert calls[:7] == FIRST
    assert calls[7:9] == [
        ("async", "countdown_tiny_seed1"),
        ("async_without_concurrency", "countdown_tiny_seed1_async_without_concurrency"),
    ]
    kept = [json.loads((driver.results / f"countdown_tiny_seed{seed}.json").read_text()) for seed in range(3)]
    assert set(kept[0]["paradigms"]) == {study.name for study, _ in runs_of(["tiny"])}
    assert set(kept[2]["paradigms"]) == {name for name, _ in FIRST}
    assert kept[1]["paradigms"]["async"]["after_rl"]["of"] == "countdown_tiny_seed1"
    assert "24/24 parallel_8, seed 0: about " in capsys.readouterr().out


def test_what_is_finished_says_so_and_is_not_run_again(driver, capsys):
    assert driver(*ONE_SEED) == (0, FIRST)
    capsys.readouterr()
    assert driver(*ONE_SEED) == (0, [])
    out = capsys.readouterr().out
    assert [f"{n}/7 {name}, seed 0: finished" in out for n, (name, _) in enumerate(FIRST, 1)] == [True] * 7
    assert driver("--seeds", "1", "--only", "pool_2") == (0, [("pool_2", "countdown_tiny_pool_2")])


def test_a_run_that_fails_ends_the_driver_with_a_line_and_the_same_command_goes_on_from_it(driver, capsys):
    assert driver(*ONE_SEED, sequential=3) == (1, FIRST[:3])
    error = capsys.readouterr().err
    assert error.startswith("error: sequential, seed 0 ended with exit code 3 (python -m asyncthink_jax.train ")
    assert error.count("\n") == 1 and not list(driver.results.iterdir())
    assert driver(*ONE_SEED) == (0, FIRST[2:])


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 0), ("SIGINT", 130), ("SIGHUP", 0)])
def test_a_signal_is_passed_on_to_the_run_and_the_same_command_goes_on(driver, capsys, name, code):
    assert driver(*ONE_SEED, async_without_concurrency=name) == (code, FIRST[:2])
    error = capsys.readouterr().err
    assert error == "the studies have stopped; the same command goes on with what is left\n"
    assert driver.asked.exists(), "the run was not asked to stop"
    assert driver(*ONE_SEED) == (0, FIRST[1:])


def test_under_nohup_the_studies_live_through_a_hangup(driver, capsys):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert driver(*ONE_SEED, async_without_concurrency="SIGHUP") == (0, FIRST)
    assert not driver.asked.exists() and "have stopped" not in capsys.readouterr().err


def test_a_run_without_rows_in_the_end_is_not_taken_for_finished(driver, capsys, monkeypatch):
    monkeypatch.setattr(reproduce.Runner, "__call__", lambda self, command: 0)
    assert driver(*ONE_SEED)[0] == 1
    assert "async, seed 0 ended without an error, but its rows are not in " in capsys.readouterr().err


def test_a_folder_of_another_config_is_refused_before_anything_runs(driver, capsys):
    assert driver("--only", "async", "--seeds", "1")[0] == 0
    assert driver(*ONE_SEED, "--config.sft.steps=7") == (2, [])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "countdown_tiny holds a run of another config" in error
    assert "sft.steps: saved 4300, now 7" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "sequental"], "no study or part 'sequental'; did you mean 'sequential'"),
        (["--only", ""], "--only is empty"),
        (["--seeds", "0"], "--seeds must be 1 or more"),
        (["--config.rl.taux=1"], "did you mean 'rl.tau'"),
        (["--runs", "/nowhere/at/all"], "--runs /nowhere/at/all: /nowhere/at does not exist"),
    ],
)
def test_bad_input_gets_one_line(driver, capsys, arguments, says):
    assert driver(*arguments) == (2, [])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_a_dry_run_says_what_would_run_and_how_long_it_takes(driver, capsys):
    driver("--only", "async", "--seeds", "1")
    capsys.readouterr()
    assert driver(*ONE_SEED, "--dry_run") == (0, [])
    out = capsys.readouterr().out
    assert "1/7 async, seed 0: " in out and "(finished)" in out
    left = sum(BY_NAME[name].minutes for name, _ in FIRST[1:])
    assert f"6 of 7 runs left, {round(left)} min on two quiet cores" in out
    assert f"--cold_start {driver.runs / 'countdown_tiny'} " in out
    assert "asyncthink_jax.evaluate" in out and "--config.paradigm=parallel" in out


def test_all_temperatures_are_scored_where_it_is_asked_for(driver):
    step, single = (reproduce.Step(BY_NAME["parallel"], 0, driver.runs, (), everywhere) for everywhere in (True, False))
    assert [command[-1] for command in step.commands()] == ["0.6", "1.0", "0.0"]
    assert [command[-1] for command in single.commands()] == ["0.6"]
    trained = reproduce.Step(BY_NAME["async"], 2, driver.runs, ())
    assert {"--config.seed=2", "--config.eval.temperatures=0.6"} <= set(trained.commands()[0])


def test_rows_of_other_runs_are_left_where_rows_are_kept(driver):
    file = driver.results / "countdown_tiny_seed0.json"
    rows = {"sequential": {"after_rl": "kept"}, "async": {"after_rl": "old", "after_rl_greedy": "kept"}}
    file.write_text(json.dumps({"date": "before", "paradigms": rows}))
    assert driver("--only", "sequential", "--seeds", "1", "--nokeep")[0] == 0
    assert json.loads(file.read_text())["paradigms"] == rows
    assert driver("--only", "async", "--seeds", "1")[0] == 0
    rows = json.loads(file.read_text())["paradigms"]
    assert rows["sequential"] == {"after_rl": "kept"} and rows["async"]["after_rl"]["of"] == "countdown_tiny"
    assert rows["async"]["after_rl_greedy"] == "kept"  # the run was not scored so


def test_what_stands_beside_the_rows_is_of_the_demos_own_run(driver):
    file = driver.results / "countdown_tiny_seed0.json"
    file.write_text(json.dumps({"date": "kept", "paradigms": {"async": {"after_rl": "kept"}}}))
    assert driver("--only", "sequential", "--seeds", "1")[0] == 0
    kept = json.loads(file.read_text())
    assert kept["date"] == "kept" and list(kept["paradigms"]) == ["async", "sequential"]
    assert driver("--only", "async", "--seeds", "1")[0] == 0
    assert json.loads(file.read_text())["date"] == "of the run"


def test_of_a_short_try_nothing_is_kept(driver):
    assert driver("--only", "async", "--seeds", "1", "--config.eval.samples=2") == (0, FIRST[:1])
    assert not list(driver.results.iterdir())


# ------------------------------------------------------------------------------------------------- the real commands

SHORT = [
    "sft.steps=4",
    "rl.iterations=1",
    "rl.prompts=4",
    "rl.group_size=2",
    "task.max_number=12",
    "task.validation_problems=4",
    "task.test_problems=4",
    "eval.validation_problems=4",
    "model.layers=1",
    "model.width=32",
    "model.mlp_width=64",
    "model.heads=2",
    "model.kv_heads=1",
    "model.head_dim=16",
    "mesh.cpu_devices=1",
]


@pytest.mark.slow
def test_every_study_runs_from_its_cold_start_to_its_row(tmp_path):
    names = "tiny,three_numbers_on_four,two_shapes"
    command = [sys.executable, "-m", "experiments.reproduce", "--runs", str(tmp_path / "runs"), "--only", names]
    command += ["--seeds", "1", "--nokeep", *(f"--config.{field}" for field in SHORT)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "runs" / "countdown_tiny" / "results.json").read_text())["paradigms"]
    assert set(rows) == {study.name for study, _ in runs_of(names.split(","), seeds=1)}
    assert all(stages["after_rl"]["n"] == 4 for stages in rows.values())
    assert rows["parallel"]["after_rl"]["tokens"] > rows["sequential"]["after_rl"]["tokens"]
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count(": finished") == len(rows)
