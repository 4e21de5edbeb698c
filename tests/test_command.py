"""What all commands share: how a command line is split, and that Ctrl-C ends a command wherever it comes."""

import os
import shlex
import subprocess
import sys

import pytest
from jax._src import distributed

from asyncthink_jax import command
from asyncthink_jax.command import split_argv
from asyncthink_jax.parallel import multihost


def test_the_command_line_is_split_into_flags_and_overrides():
    argv = [
        "train",
        "--config",
        "e.py",
        "--config.rl.tau=0.9",
        "--config.seed",
        "-3",
        "--config.rollout.constrain",
        "-v",
    ]
    assert split_argv(argv) == (
        ["train", "--config", "e.py", "-v"],
        ["rl.tau=0.9", "seed=-3", "rollout.constrain=true"],
    )


PROGRAM = """
import gc, signal, time
from asyncthink_jax import command

def main(argv):
    print(argv[1:])
    BODY
    return 3

command.run(main, overridable=False)
"""


def run(body, *arguments, shell="", **environment):
    """`shell`: redirections, as a shell writes them."""
    command = shlex.join([sys.executable, "-c", PROGRAM.replace("BODY", body), *arguments])
    environment = {**os.environ, **environment}
    bash = ["bash", "-c", f"exec {command} {shell}"]
    return subprocess.run(bash, capture_output=True, text=True, timeout=60, env=environment)


def test_a_command_ends_with_its_own_exit_code():
    done = run("pass", "--", "--config.seed=1")
    assert (done.returncode, done.stdout, done.stderr) == (3, "['--config.seed=1']\n", "")


def test_what_has_failed_leaves_at_once_unless_others_have_to_hear_of_it(monkeypatch):
    leaves = "import atexit; atexit.register(print, 'at the end'); return 1"
    assert (run(leaves).returncode, run(leaves).stdout) == (1, "[]\n")
    assert multihost.count() == 1 and not command._others()
    monkeypatch.setattr(distributed.global_state, "num_processes", 2)
    assert command._others()


@pytest.mark.parametrize(
    ("argument", "says"), [("--seeed=1", "'seeed'"), ("--verbosity=loud", "--verbosity=loud"), ("--log_dir", "log_dir")]
)
def test_a_wrong_flag_is_bad_input_in_one_line(argument, says):
    done = run("pass", argument)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ") and says in done.stderr


def test_help_is_no_failure():
    done = run("pass", "--help")
    assert (done.returncode, done.stderr) == (0, "") and "--helpfull" in done.stdout


def test_ctrl_c_ends_a_command_in_a_line():
    done = run("signal.raise_signal(signal.SIGINT)")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ctrl_c_that_comes_while_garbage_is_collected_is_not_lost():
    pressed = "gc.callbacks.append(lambda *_: gc.callbacks.clear() or signal.raise_signal(signal.SIGINT))"
    done = run(f"{pressed}; gc.collect(); time.sleep(50)")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_what_else_is_raised_where_nobody_hears_it_is_shown():
    done = run("gc.callbacks.append(lambda *_: gc.callbacks.clear() or 1 / 0); gc.collect()")
    assert done.returncode == 3 and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_text_is_printed_in_any_encoding(encoding):
    done = run("print('\\u03b7 \\udcff')", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    told = "[]\n" + ("η" if encoding == "utf-8" else "\\u03b7") + " \\udcff\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, told, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_a_line(unbuffered):
    done = run("pass", shell="> /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")
    done = run("pass", "--help", shell="> /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")
    assert run("1 / 0", shell="2> /dev/full").returncode == 1


def test_streams_that_are_closed_are_there_and_no_file_gets_their_numbers():
    body = "print(sys.stdin.read(), file=sys.stderr); sys.exit(open('/dev/null').fileno())"
    done = run(f"import sys; {body}", shell="<&- >&- 2>&-")
    assert done.returncode > 2 and done.stdout == done.stderr == ""
    assert run("print(command.is_closed('stdin'), command.is_closed('stdout'))", shell="<&-").stdout.endswith(
        "True False\n"
    )


def test_a_logger_that_was_there_before_can_still_write():
    done = run("from absl import logging; logging.warning('heard'); print('seen')")
    assert (done.returncode, done.stdout) == (3, "[]\nseen\n")
    assert done.stderr.endswith("heard\n") and done.stderr.count("\n") == 1


def test_an_error_of_a_file_is_a_line_and_one_without_a_file_a_traceback():
    done = run("open('/no/such')")
    assert (done.returncode, done.stderr) == (1, "error: /no/such: No such file or directory\n")
    assert "Traceback" in run("raise OSError('of no file')").stderr
    done = run("from asyncthink_jax.files import FileError; raise FileError('a.json is damaged')")
    assert (done.returncode, done.stderr) == (2, "error: a.json is damaged\n")


def test_out_of_memory_is_a_line():
    done = run("raise RuntimeError('INTERNAL: Out of memory\\nallocating 9 bytes.')")
    assert done.returncode == 1 and done.stderr.startswith("error: out of memory (INTERNAL: Out of memory allocating 9")
    assert run("raise MemoryError").stderr == "error: out of memory: a smaller model, fewer slots or rows take less\n"
    assert "Traceback" in run("raise RuntimeError('of something else')").stderr


def test_an_argument_that_is_no_utf8_is_refused_unless_it_is_a_question():
    flags = "from absl import flags; [flags.DEFINE_string(n, None, n) for n in ('out', 'question')];"
    program = PROGRAM.replace("BODY", "print(repr(flags.FLAGS.question))").replace("import gc", f"{flags} import gc")
    done = subprocess.run([sys.executable, "-c", program, b"--out=\xff"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --out '\\udcff' is not UTF-8; use a name that is\n"
    done = subprocess.run([sys.executable, "-c", program, b"--question=\xff"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "[]\n'\\udcff'\n")


def test_a_reader_that_closes_early_is_no_error():
    command = [sys.executable, "-c", PROGRAM.replace("BODY", "[print('more', flush=True) for _ in range(100_000)]")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "[]\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_what_a_library_logs_is_still_heard():
    """Loggers took hold of standard error before the command did."""
    done = run("from absl import logging; logging.warning('heard')")
    assert done.returncode == 3 and "] heard" in done.stderr and "Logging error" not in done.stderr
