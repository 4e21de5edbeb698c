"""The process that grades: it is held to its limits, lost and replaced, and nobody waits for it for ever."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from asyncthink_jax.tasks import math_grader, math_worker
from asyncthink_jax.tasks.math_grader import Grader

HALF = (r"\frac{1}{2}", r"2^{-1}")
ENDLESS = ("27", r"10^{10^{10}}")  # a loop in C, which no exception interrupts


@pytest.fixture
def grader():
    grader = Grader(seconds=0.5, patience=60)
    yield grader
    grader.close()


def environment():
    root = str(Path(math_worker.__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_worker_serves_all_pairs_and_is_started_by_the_first(grader):
    assert grader.pid is None
    assert grader.equal([HALF, ("x", "y")]) == [True, False]
    pid = grader.pid
    assert grader.equal([HALF]) == [True]
    assert grader.pid == pid and grader.starts == 1


def test_an_answer_that_takes_for_ever_is_given_up_and_the_next_ones_are_graded(grader):
    assert grader.equal([HALF, ENDLESS, HALF]) == [True, None, True]
    assert grader.starts == 2


@pytest.fixture
def kills(monkeypatch):
    """Workers to kill, each a little after it was asked."""
    left = []
    ask = math_grader._Worker.ask

    def killed(worker, question, patience):
        if left:
            threading.Timer(left.pop(), worker.process.kill).start()
        return ask(worker, question, patience)

    monkeypatch.setattr(math_grader._Worker, "ask", killed)
    return left


def test_an_answer_whose_worker_is_killed_is_graded_by_the_next_one(grader, kills):
    grader.equal([HALF])
    os.kill(grader.pid, signal.SIGSTOP)  # so that it is in the middle
    kills.append(0.05)
    assert grader.equal([HALF]) == [True]
    assert grader.starts == 2


@pytest.mark.slow
def test_an_answer_that_has_lost_two_workers_is_given_up(grader, kills):
    grader.seconds = 30
    kills += [0.3, 0.3]
    assert grader.equal([ENDLESS, HALF]) == [None, True]
    assert grader.starts == 3


@pytest.mark.slow
def test_a_worker_that_was_killed_between_two_answers_is_replaced(grader):
    grader.equal([HALF])
    os.kill(grader.pid, signal.SIGKILL)
    assert grader.equal([HALF]) == [True]
    assert grader.starts == 2


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_given_up(grader):
    grader.equal([HALF])
    grader.patience = 0.2
    os.kill(grader.pid, signal.SIGSTOP)
    assert grader.equal([HALF]) == [None]
    grader.patience = 60
    assert grader.equal([HALF]) == [True]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit no address space")
def test_a_worker_may_neither_take_all_memory_nor_write_a_file(tmp_path):
    program = f"""
from asyncthink_jax.tasks import math_worker
math_worker._limit(1 << 30)
try:
    bytearray(2 << 30)
except MemoryError:
    print("no memory")
try:
    with open({str(tmp_path / "written")!r}, "w") as file:
        file.write("something")
except OSError:
    print("no file")
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines() == ["no memory", "no file"]


def test_a_worker_that_never_starts_is_an_error_that_says_why(monkeypatch):
    monkeypatch.setattr(math_grader.time, "sleep", lambda _: None)
    monkeypatch.setattr(math_grader, "_RUN", "raise SystemExit('no math-verify here')")
    grader = Grader()
    with pytest.raises(RuntimeError, match="no math-verify here"):
        grader.equal([HALF])
    assert grader.starts == math_grader.STARTS and grader.pid is None


def test_an_interrupt_in_the_middle_leaves_no_reply_for_the_next_pair(grader, monkeypatch):
    grader.equal([HALF])
    ask = math_grader._Worker.ask

    def interrupted(worker, question, patience):
        worker._to.write(b'["x", "x"]\n')
        raise KeyboardInterrupt

    monkeypatch.setattr(math_grader._Worker, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grader.equal([HALF])
    monkeypatch.setattr(math_grader._Worker, "ask", ask)
    assert grader.equal([("x", "y")]) == [False]


@pytest.mark.slow
def test_threads_take_turns(grader):
    found = {}

    def ask(n):
        found[n] = grader.equal([(str(n), f"{n} + 0"), (str(n), f"{n + 1} + 0")] * 5)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [[True, False] * 5] * 4 and grader.starts == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_worker_ends_with_the_trainer_even_if_that_is_killed(end):
    program = f"""
import os, signal
from asyncthink_jax.tasks.math_grader import Grader
grader = Grader()
grader.equal([("x", "y")])
print(grader.pid, flush=True)
{end}
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(200):
        if not is_running(pid):
            return
        time.sleep(0.05)
    pytest.fail("it still runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        "99999999!",
        "((99999999!)!)!",
        "(" * 400 + "27" + ")" * 400,
        "{" * 400 + "27" + "}" * 400,
        "x^" * 300 + "x",
        r"\frac{" * 140,
        r"\sqrt{" * 140 + "2" + "}" * 140,
        r"\int_0^1 x^{x^{x^x}} dx",
        r"\sum_{n=1}^{10000000} n^{-2}",
        r"\sin(\sin(\sin(x)))^{100}(x+y+z+w)^{80}",
        "🤯" * 200,
        "__import__('os').abort()",
    ],
)
def test_no_answer_hangs_the_grader_or_stops_it(grader, answer):
    first, second = grader.equal([("27", answer), HALF])
    assert not first and second is True
