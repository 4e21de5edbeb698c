"""A single process that is asked to stop; what needs several is in several_processes.py."""

import os
import signal
import tty

import pytest

from asyncthink_jax.parallel.preemption import InterruptedRunError, Preemption


@pytest.fixture
def preemption():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
    listening = Preemption()
    listening.listen()
    yield listening
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_nobody_has_asked(preemption):
    assert not preemption.reached()
    preemption.poll()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)])
def test_a_signal_asks_to_stop_at_the_next_poll_and_from_then_on(preemption, number, code):
    signal.raise_signal(number)
    for _ in range(2):
        with pytest.raises(InterruptedRunError):
            preemption.poll()
    assert preemption.exit_code == code


def test_sigterm_twice_asks_once(preemption):
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert preemption.reached() and preemption.exit_code == 0


def test_a_run_under_nohup_lives_through_a_hangup(preemption):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    preemption.listen()
    signal.raise_signal(signal.SIGHUP)
    assert not preemption.reached()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, "what it starts lives through it too"


def test_what_is_written_after_a_hangup_of_the_terminal_is_lost_and_nothing_else(preemption):
    terminal, stream = os.openpty()
    tty.setraw(stream)
    preemption._terminals = [stream]
    os.close(terminal)
    with pytest.raises(OSError):
        os.write(stream, b"progress")
    signal.raise_signal(signal.SIGHUP)
    os.write(stream, b"saved")
    os.close(stream)
    assert preemption.reached()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_once_more_stops_at_once(preemption, first):
    signal.raise_signal(first)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
