"""Requests to stop a run: SIGTERM, as before a spot VM is taken away, Ctrl-C, or a terminal that hangs up.

A run polls wherever it could stop: between two steps, and from time to time in a rollout. All processes poll at the
same points of the run and must stop at the same poll, but a signal may reach them at different times, or only one of
them. So with several processes jax handles SIGTERM. Its preemption service tells all processes and lets them agree on
the next poll that none has passed yet (`reached_preemption_sync_point`). A poll then costs only a comparison; an
agreement of our own would be a collective at every poll. Other signals are passed on as SIGTERM. A process that was
started with SIGHUP ignored, as by nohup, goes on ignoring it.
"""

import os
import signal
from types import FrameType

from jax.experimental import multihost_utils

from asyncthink_jax.parallel import multihost


class InterruptedRunError(Exception):
    """The run was asked to stop. All processes raise it at the same poll."""


class Preemption:
    """Whether the run has been asked to stop, as all processes see it."""

    def __init__(self) -> None:
        self._polls = 0
        self._asked_by: int | None = None  # the first signal that this process received
        self._reached = False
        self._terminals: list[int] = []  # of the output streams

    def listen(self) -> None:
        """From now on SIGTERM, Ctrl-C and a hangup are requests to stop. A second Ctrl-C raises KeyboardInterrupt."""
        signal.signal(signal.SIGINT, self._asked)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
            signal.signal(signal.SIGHUP, self._asked)
        if multihost.count() == 1:  # otherwise jax listens, and our handler would replace its own
            signal.signal(signal.SIGTERM, self._asked)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._asked_by is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # a signal may come twice, to the process and to its group
        self._asked_by = number
        for stream in self._terminals:
            if not os.isatty(stream):  # hung up: writing there would end the run before it has saved
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if multihost.count() > 1:
            signal.raise_signal(signal.SIGTERM)

    def reached(self) -> bool:
        """Polls whether to stop here. Once true, it stays true."""
        self._polls += 1
        if multihost.count() == 1:
            self._reached = self._asked_by is not None
        elif not self._reached:
            self._reached = multihost_utils.reached_preemption_sync_point(self._polls)
        return self._reached

    def poll(self) -> None:
        """Polls, and raises InterruptedRunError if the run is to stop here."""
        if self.reached():
            raise InterruptedRunError

    @property
    def exit_code(self) -> int:
        """The exit code of a run that has stopped: 130 after Ctrl-C as for any command, 0 after another signal."""
        return 130 if self._asked_by == signal.SIGINT else 0
