"""The command that asks a model: bad input gets one line, a pipe plain text, `--json` episodes, a terminal lanes."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import jax
import pytest
from absl.testing import flagsaver

from asyncthink_jax import sample
from asyncthink_jax.command import split_argv
from asyncthink_jax.config import CheckpointConfig, Config, ConfigError, RolloutConfig, to_json
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.play.thinker import Settings, load_model, majority
from asyncthink_jax.storage.restore import cold_start_checkpoints
from asyncthink_jax.tasks import Countdown
from asyncthink_jax.training import experiment as experiment_lib

QUESTION, OTHER = "2 3 5 7 = 11", "3 4 6 9 = 12"
FROM = "--checkpoint=cold_start"
CONFIG = Config(
    name="untrained",
    task=Countdown(max_number=12, validation_problems=4, test_problems=4),
    model=ModelConfig(vocab_size=0, layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp_width=64),
    rollout=RolloutConfig(slots=8, organizer_budget=24, worker_budget=8, context=40),
    checkpoint=CheckpointConfig(keep=1),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run with the random parameters that its training would start from."""
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    folder.mkdir()
    built = experiment_lib.build(CONFIG, folder)
    (folder / "config.json").write_text(to_json(CONFIG))
    with cold_start_checkpoints(folder) as checkpoints:
        checkpoints.save(1, built.new_params(), {})
    return folder


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Compiled in half the time, and what one test has compiled, the others, and the processes they start, read."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)


def run(*arguments):
    others, overrides = split_argv(["sample", *map(str, arguments)])
    with flagsaver.flagsaver():
        return sample.main(sample.FLAGS(others), overrides)


# --- Bad input.

compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compilations.append(seconds) if "backend_compile" in event else None
)


@pytest.fixture
def refused(capsys):
    """Gives the command arguments that it must refuse; returns the line it says."""

    def refused(*arguments):
        compilations.clear()
        code = run(*arguments)
        printed = capsys.readouterr()
        assert (code, printed.out) == (2, "")
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and len(printed.err) < 300
        assert max(compilations, default=0) < 1, "more was compiled than it takes to lay out a constant"
        return printed.err

    return refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--paradigm=asynch"], "--paradigm 'asynch' is not one of async, sequential, parallel"),
        (["--checkpoint=last"], "--checkpoint 'last' is not one of best, latest, cold_start"),
        (["--agents=0"], "--agents is 0, but must be at least 1"),
        (["--paradigm=sequential", "--agents=4"], "--agents 4: in the sequential paradigm one agent thinks alone"),
        (["--temperature=-1"], "--temperature is -1.0, but must be a number from 0"),
        (["--temperature=nan"], "--temperature is nan, but must be a number from 0"),
        (["--temperature=1e39"], "--temperature is 1e+39, but must be a number from 0"),
        (["--max_tokens=0"], "--max_tokens is 0, but must be at least 1"),
        (["--max_tokens=40"], "--max_tokens 40 is too much: question and thoughts together have room for 40 tokens"),
        (["--seed=-1"], "--seed is -1, but must be from 0 to 2147483647"),
        (["--question= "], "--question is empty"),
        (["2 3 5 7"], "unexpected argument '2 3 5 7'; options start with --, and a question needs quotes"),
        (
            ["--question=2 3 hello = 5"],
            "the model has no token for 'hello'; a question of its task (countdown_tiny) is",
        ),
        (["--question=" + "2 " * 40], "the question is too long: with the prompt around it it has 4"),
        (["--config.rollout.top_p=2"], "config field 'rollout.top_p' is 2.0, must be from 0.001 to 1"),
        (["--config.rollout.worker_context=2"], "without its sub-query, and rollout.worker_context is 2"),
        (["--config.mesh.tensor=64"], "mesh.tensor is 64, but there "),
        (["--checkpoint=best"], "has no checkpoint 'best' yet"),
    ],
)
def test_what_cannot_be_asked_is_refused(model, refused, arguments, says):
    question = [] if any("question" in argument for argument in arguments) else [f"--question={QUESTION}"]
    assert says in refused("--model", model, *question, *arguments)


def test_a_model_that_is_none_is_refused(tmp_path, refused):
    assert "--model is missing" in refused("--question", QUESTION)
    assert f"--model: {tmp_path / 'no'} does not exist" in refused("--model", tmp_path / "no")
    assert f"--model: {tmp_path / 'config.json'} is missing" in refused("--model", tmp_path)
    for content in ('{"model_type": "qwen3"}', "{"):
        (tmp_path / "config.json").write_text(content)
        assert f"--model: {tmp_path / 'config.json'}" in refused("--model", tmp_path)
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    assert f"--model: {tmp_path / 'weights.gguf'}" in refused("--model", tmp_path / "weights.gguf")


# --- What is loaded for it.

TRAINING = {"asyncthink_jax.training", "grain", "optax", "orbax", "tensorflow_datasets"}


def loaded_after(code, of=TRAINING, **environment):
    """Those of the modules that a process has loaded when it has run this."""
    told = f"import sys\n{code}\nprint(*({of} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", told], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_and_what_is_refused_by_its_config_need_no_jax():
    assert loaded_after("import asyncthink_jax.sample", of={"jax", "flax"}) == set()


def test_all_that_sample_imports_is_no_part_of_training():
    code = "import asyncthink_jax.sample, asyncthink_jax.play.thinker, asyncthink_jax.report.lanes"
    assert loaded_after(code) == set()


def test_the_first_question_to_a_run_loads_what_reads_its_checkpoint_and_no_other_part_of_training(
    model, compiled_once
):
    arguments = ["sample", f"--model={model}", FROM, f"--question={QUESTION}"]
    code = f"from asyncthink_jax import sample\nassert sample.main(sample.FLAGS({arguments}), []) == 0"
    assert loaded_after(code, **compiled_once) == {"orbax"}


# --- What comes out.


def test_a_pipe_gets_the_episode_as_plain_text(model, capsys):
    assert run("--model", model, FROM, "--question", QUESTION, "--temperature=1") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"question: {QUESTION}\n\norganizer, steps 1 to ")
    names = [line.split(":")[0] for line in out.splitlines()[-6:-1]]
    assert names == ["answer", "critical path", "tokens", "concurrency", "ended"]
    assert not {c for c in out if unicodedata.category(c) in ("Cc", "Cf")} - {"\n"}


def asked(capsys, model, *arguments):
    assert run("--model", model, FROM, "--temperature=1", "--json", *arguments) == 0
    out, error = capsys.readouterr()
    assert error == ""
    return [json.loads(line) for line in out.splitlines()]


def test_json_has_an_episode_a_question_and_nothing_else(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n\n  {OTHER}\n{QUESTION}"))
    first, second, third = asked(capsys, model)
    assert [one["problem"] for one in (first, second, third)] == [{"question": q} for q in (QUESTION, OTHER, QUESTION)]
    assert (first["task"], first["paradigm"], first["agents"]) == ("countdown_tiny", "async", 4)
    assert first["traces"][0]["prompt"] == f"solve {QUESTION} :"
    assert first["critical_path"] == first["traces"][0]["end_step"] > 0
    # Another question of a session has other random numbers, the same session has the same ones.
    assert first["traces"] != third["traces"]
    assert asked(capsys, model, "--question", QUESTION) == [first]
    assert asked(capsys, model, "--question", QUESTION, "--seed=1")[0]["traces"] != first["traces"]


def test_the_settings_reach_the_engine(model, capsys):
    (short,) = asked(capsys, model, "--question", QUESTION, "--max_tokens=5", "--constrain", "--agents=2")
    assert [trace["decoded_tokens"] for trace in short["traces"] if trace["role"] == "organizer"] == [5]
    assert (short["agents"], short["format_error"]) == (2, "no_answer")
    thinker = load_model(model, Settings(agents=3, max_tokens=7, overrides=("rollout.top_p=0.5", "rl.temperature=0.3")))
    assert (thinker.engine.agents, thinker.temperature, thinker.engine.step.sampling.top_p) == (3, 0.3, 0.5)
    assert (thinker.engine.limits.organizer_budget, thinker.engine.limits.worker_budget) == (7, 7)
    assert thinker.engine.step.constraint is None


def test_sequential_is_one_organizer_without_forks(model, capsys):
    (one,) = asked(capsys, model, "--question", QUESTION, "--paradigm=sequential")
    assert (one["agents"], len(one["traces"]), one["paradigm"]) == (1, 1, "sequential")


def test_parallel_traces_are_independent_and_their_answers_merged(model, monkeypatch):
    thinker = load_model(model, Settings(paradigm="parallel", agents=3, temperature=1.0, checkpoint="cold_start"))
    seen = []
    episode = thinker.think(QUESTION, watch=seen.append).episode
    assert (episode.agents, len(episode.traces), episode.paradigm) == (3, 3, "parallel")
    assert len({tuple(trace.tokens) for trace in episode.traces}) == 3
    assert seen and all(len(part.episode.traces) == 3 for part in seen)
    answers = iter(["2 + 9", "9 + 2 , 20 - 9", None])
    monkeypatch.setattr("asyncthink_jax.rollout.record.Rollout.answer", lambda *_: next(answers))
    assert thinker.think(QUESTION).episode.answer == " 2 + 9 , 20 - 9"  # Countdown's own: the union, by votes


def test_a_vote_goes_to_the_answer_of_most_traces_then_to_the_first():
    assert majority([" b", "a", None, "a ", "b "]) == "b"
    assert majority(["b", None, "a", "a"]) == "a"
    assert majority([None, None]) is None


def test_a_question_that_is_refused_does_not_end_a_session(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"what?\n{QUESTION}\n"))
    assert run("--model", model, FROM, "--json") == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: the model has no token for 'what?'") and error.count("\n") == 1
    assert [json.loads(line)["problem"]["question"] for line in out.splitlines()] == [QUESTION]


def test_the_weights_are_read_and_the_engine_is_compiled_once_a_session(model):
    thinker = load_model(model, Settings(checkpoint="cold_start"))
    thinker.think(QUESTION)
    params, programs = thinker.params, thinker.engine.advance._cache_size()
    thinker.think(OTHER, number=1)
    assert thinker.params is params and thinker.engine.advance._cache_size() == programs == 1


def test_parameters_that_cannot_be_read_are_one_line(model):
    with pytest.raises(ConfigError, match="has no checkpoint 'latest' yet"):
        load_model(model, Settings(checkpoint="latest")).think(QUESTION)


# --- On a terminal.


@pytest.fixture
def on_a_terminal(model, compiled_once):
    """Starts the command on a terminal of its own; gives the process, what to type into, and how to read its screen."""
    started = []

    def start(*arguments):
        ours, its = pty.openpty()
        environment = os.environ | compiled_once | {"JAX_PLATFORMS": "cpu", "TERM": "xterm", "COLUMNS": "100"}
        command = [sys.executable, "-m", "asyncthink_jax.sample", "--model", model, FROM, *arguments]
        process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True)
        os.close(its)
        started.append((process, ours))
        screen = b""

        def read_until(text, again=None):
            nonlocal screen
            try:
                while text is None or text.encode() not in screen:
                    while not select.select([ours], [], [], 20 if again else 600)[0]:
                        assert again, f"{text!r} never came: {screen!r}"
                        again()
                    screen += os.read(ours, 4096)
            except OSError:  # the command has ended
                assert text is None, f"{text!r} never came: {screen!r}"
            before, _, screen = (screen, b"", b"") if text is None else screen.partition(text.encode())
            return before.decode(errors="replace")

        return process, ours, read_until

    yield start
    for process, terminal in started:
        process.kill()
        process.wait()
        os.close(terminal)


def test_a_terminal_asks_shows_lanes_and_asks_again_until_ctrl_d(on_a_terminal):
    process, terminal, read_until = on_a_terminal()
    read_until("> ")
    os.write(terminal, f"{QUESTION}\n".encode())
    screen = read_until("ended ")
    for text in ("organizer", "critical path", "tokens/s", "concurrency"):
        assert text in screen
    read_until("> ")
    os.write(terminal, b"what?\n")
    assert "no token for 'what?'" in read_until("> ")
    os.write(terminal, b"\x04")
    read_until(None)
    assert process.wait() == 0


@pytest.mark.parametrize("moment", ["> ", "compiles"])
def test_ctrl_c_ends_the_command(on_a_terminal, moment):
    process, terminal, read_until = on_a_terminal()
    read_until("> ")
    if moment != "> ":
        os.write(terminal, f"{QUESTION}\n".encode())
        read_until(moment)
    # Python's readline loses one that comes between the prompt sign and the wait for a key: it is pressed again.
    presses = iter(range(10))
    press = lambda: next(presses) is not None and process.send_signal(signal.SIGINT)  # noqa: E731
    press()
    screen = read_until(None, again=press)
    assert process.wait() == 130
    assert "interrupted" in screen and "Traceback" not in screen


def test_the_snippet_of_the_readme_runs(model, capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert snippet.count("\n") <= 10
    snippet = snippet.replace('"runs/countdown_tiny"', repr(str(model)))
    exec(snippet.replace("Settings(", 'Settings(checkpoint="cold_start", '), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("organizer None ") and lines[-2].startswith("steps on the critical path: ")
