"""launch/local.sh with a python that stands for training: writes down how it was started, and does what it is told."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# DO_<i> says what process i does: end with an exit code, or wait for a signal and end with a code, or ignore SIGTERM.
TRAINING = f"""#!{sys.executable} -S
import json, os, pathlib, signal, sys, time
index = os.environ["JAX_PROCESS_ID"]
what, _, code = os.environ.get("DO_" + index, "exit 0").partition(" ")
signals = []
def note(number, frame):
    signals.append(signal.Signals(number).name)
    print("got", signals[-1], flush=True)
if what == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
record = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "pid": os.getpid()}}
pathlib.Path("record" + index + ".new").write_text(json.dumps(record))
os.rename("record" + index + ".new", "record" + index)
print("process", index, "trains", flush=True)
while what != "exit" and not signals:
    time.sleep(0.02)
while code == "7" and len(list(pathlib.Path().glob("record?"))) < int(os.environ["JAX_NUM_PROCESSES"]):
    time.sleep(0.02)  # dies when all train
if what == "wait":
    time.sleep(0.3)  # saves; a signal that comes twice is noted twice
print("signals", *signals, flush=True)
sys.exit(int(code or 0))
"""


class Local:
    """Runs `launch/local.sh` in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = folder / "a python"
        self.python.write_text(TRAINING)
        self.python.chmod(0o755)
        (folder / "tiny.py").touch()

    @contextlib.contextmanager
    def started(self, *words: str, hangup=signal.SIG_DFL, **environment: str) -> Iterator[subprocess.Popen]:
        """`hangup`: what SIGHUP does to it; under nohup, as whoever runs the tests may be, it is ignored."""
        process = subprocess.Popen(
            [str(ROOT / "launch" / "local.sh"), *words],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "PYTHON": str(self.python)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, as on a terminal
            preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
        )
        try:
            yield process
        finally:
            for record in self.folder.glob("record?"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
            process.kill()
            process.communicate()

    def run(self, *words: str, code: int = 0, **environment: str) -> tuple[str, str]:
        """What it printed to stdout and stderr; fails unless it ends with `code`."""
        with self.started(*words, **environment) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        return out, err

    def record(self, index: int) -> dict:
        """How process `index` was started; waits for that."""
        file = self.folder / f"record{index}"
        for _ in range(600):
            if file.exists():
                return json.loads(file.read_text())
            time.sleep(0.1)
        raise AssertionError(f"process {index} was not started")


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def test_every_process_is_told_its_place(local):
    local.run("3", "tiny.py", "run", XLA_FLAGS="--xla_mine=1", DEVICES="4")
    records = [local.record(i) for i in range(3)]
    assert [record["environment"]["JAX_PROCESS_ID"] for record in records] == ["0", "1", "2"]
    assert len({record["environment"]["JAX_COORDINATOR_ADDRESS"] for record in records}) == 1
    for record in records:
        environment = record["environment"]
        assert environment["JAX_NUM_PROCESSES"] == "3"
        assert environment["JAX_COORDINATOR_ADDRESS"].startswith("127.0.0.1:")
        assert environment["JAX_PLATFORMS"] == "cpu"
        assert environment["XLA_FLAGS"] == "--xla_mine=1 --xla_force_host_platform_device_count=4"
        assert environment["PYTHONPATH"] == str(ROOT)


def test_a_process_has_two_devices_if_nobody_says_otherwise(local):
    local.run("1", "tiny.py", "run")
    assert local.record(0)["environment"]["XLA_FLAGS"] == "--xla_force_host_platform_device_count=2"


def test_flags_reach_training_as_they_were_given(local):
    flags = ['--config.name=it\'s a "name"', "--noevaluate"]
    local.run("2", "tiny.py", "my run", *flags)
    for i in range(2):
        assert local.record(i)["arguments"] == (
            ["-m", "asyncthink_jax.train", "--config=tiny.py", "--workdir=my run", *flags]
        )


def test_the_workdir_may_be_left_out(local):
    local.run("2", "tiny.py", "--config.seed=1")
    assert local.record(0)["arguments"][3:] == ["--workdir=runs/tiny", "--config.seed=1"]
    assert (local.folder / "runs" / "tiny.process1.log").exists()


def test_only_process_0_prints_here_the_others_to_logs_beside_the_workdir(local):
    out, err = local.run("2", "tiny.py", "run")
    assert "process 0 trains" in out and "process 1 trains" not in out and not err
    assert (local.folder / "run.process1.log").read_text().startswith("process 1 trains\n")


@pytest.mark.parametrize(("victim", "where"), [(0, "its output is above"), (2, "its log is run.process2.log")])
def test_one_that_dies_ends_the_others(local, victim, where):
    waiting = {f"DO_{i}": "wait" for i in range(3)} | {f"DO_{victim}": "exit 7"}
    started = time.monotonic()
    _, err = local.run("3", "tiny.py", "run", code=7, **waiting)
    assert time.monotonic() - started < 60
    assert err == f"error: process {victim} of 3 died with exit code 7; {where}; ending the others\n"
    assert "signals SIGTERM\n" in (local.folder / "run.process1.log").read_text()


def test_one_that_is_killed_ends_the_others(local):
    with local.started("2", "tiny.py", "run", DO_0="wait", DO_1="wait") as process:
        local.record(0)
        os.kill(local.record(1)["pid"], signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 137
    assert err == (
        "error: process 1 of 2 died with exit code 137 (signal 9); its log is run.process1.log; ending the others\n"
    )
    assert out.endswith("signals SIGTERM\n")


def test_one_that_does_not_end_is_killed(local):
    started = time.monotonic()
    with local.started("2", "tiny.py", "run", DO_0="ignore", DO_1="wait 3", GRACE="1") as process:
        stuck = local.record(0)["pid"]
        os.kill(local.record(1)["pid"], signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 3, "the first that failed"
    assert time.monotonic() - started < 60
    with pytest.raises(ProcessLookupError):
        os.kill(stuck, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [0, 130])
def test_a_signal_is_passed_on_once_and_every_process_awaited(local, number, code):
    with local.started("2", "tiny.py", "run", DO_0=f"wait {code}", DO_1=f"wait {code}") as process:
        local.record(0), local.record(1)
        os.killpg(process.pid, number)  # as a terminal does it
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    name = signal.Signals(number).name
    assert out == f"process 0 trains\ngot {name}\nsignals {name}\n"
    assert (local.folder / "run.process1.log").read_text() == f"process 1 trains\ngot {name}\nsignals {name}\n"
    assert not err, "that was no death"


def test_a_hangup_of_the_terminal_asks_to_stop(local):
    with local.started("2", "tiny.py", "run", DO_0="wait 0", DO_1="wait 0") as process:
        local.record(0), local.record(1)
        os.kill(process.pid, signal.SIGHUP)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err
    assert out == "process 0 trains\ngot SIGTERM\nsignals SIGTERM\n"


def test_under_nohup_it_lives_through_a_hangup(local):
    with local.started("2", "tiny.py", "run", hangup=signal.SIG_IGN, DO_0="wait 0", DO_1="wait 0") as process:
        training = local.record(0)["pid"], local.record(1)["pid"]
        os.killpg(process.pid, signal.SIGHUP)
        for pid in training:  # each in a group of its own
            os.kill(pid, signal.SIGHUP)
        for pid in training:
            os.kill(pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err
    assert out == "process 0 trains\ngot SIGTERM\nsignals SIGTERM\n"


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        ([], {}, "needs the number of processes and a config"),
        (["two", "tiny.py"], {}, "number of processes 'two' is no number from 1 to 99"),
        (["0", "tiny.py"], {}, "number of processes '0'"),
        (["2", "tny.py"], {}, "config 'tny.py' is no file"),
        (["2", "tiny.py", "gs://mine/run"], {}, "workdir 'gs://mine/run'"),
        (["2", "tiny.py", "no/such/run"], {}, "workdir 'no/such/run': no/such does not exist"),
        (["2", "tiny.py"], {"DEVICES": "many"}, "DEVICES 'many' is no positive number"),
        (["2", "tiny.py"], {"PYTHON": "no-such-python"}, "PYTHON 'no-such-python' is no program"),
        (["2", "tiny.py"], {"DEVICES": "02"}, "DEVICES '02' is no positive number"),
        (["2", "tiny.py"], {"PORT": "http"}, "PORT 'http' is no port number"),
        (["2", "tiny.py"], {"PORT": "65536"}, "PORT '65536' is no port number"),
        (["2", "tiny.py"], {"GRACE": "08"}, "GRACE '08' is no number of seconds"),
        (["2", "tiny.py"], {"GRACE": "a[$(id)]"}, "GRACE 'a[$(id)]' is no number of seconds"),
        (["2", "tiny.py"], {"GRACE": "soon"}, "GRACE 'soon' is no number of seconds"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(local, words, environment, told):
    _, err = local.run(*words, code=2, **environment)
    assert err.startswith("error: ") and err.count("\n") == 1 and told in err
    assert not list(local.folder.glob("record?"))


def test_help_says_how_to_use_and_how_to_stop_it(local):
    out, _ = local.run("--help")
    assert "DEVICES" in out and "How to stop it: Ctrl-C" in out and "set -euo" not in out
