"""What all commands share: how a command line is split, and that Ctrl-C ends a command wherever it comes."""

import subprocess
import sys

from asyncthink_jax.command import split_argv


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


def run(body, *arguments):
    command = [sys.executable, "-c", PROGRAM.replace("BODY", body), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_command_ends_with_its_own_exit_code():
    done = run("pass", "--", "--config.seed=1")
    assert (done.returncode, done.stdout, done.stderr) == (3, "['--config.seed=1']\n", "")


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


def test_a_reader_that_closes_early_is_no_error():
    command = [sys.executable, "-c", PROGRAM.replace("BODY", "[print('more', flush=True) for _ in range(100_000)]")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "[]\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
