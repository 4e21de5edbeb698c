"""math-verify in a process of its own, which has limits and may be lost.

It has sympy simplify what a model wrote, which for some texts never ends, or takes all the memory there is. So it is
asked over a pipe (`math_worker.py` is the other end). The process is started when it is first needed, goes on from
answer to answer, and another one takes its place when it was lost.
"""

import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence

from asyncthink_jax.tasks import math_worker

SECONDS = 3.0  # of processor time an answer may take: how busy the machine is makes no answer wrong
MEMORY = 2 << 30  # bytes of address space of the worker
STARTS = 3  # workers that may fail to start, one after the other, until there is something wrong


def is_installed() -> bool:
    """Whether there is a math-verify."""
    return importlib.util.find_spec("math_verify") is not None


class Grader:
    """Asks a worker process. Threads may share it; they take turns.

    Args:
        seconds: of processor time that a pair may take, else its answer counts as wrong.
        memory: bytes of address space that the worker may use.
        patience: seconds on the clock after which a worker is given up that neither answers nor uses the processor.
    """

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY, patience: float = 120.0):
        self.seconds, self.memory, self.patience = seconds, memory, patience
        self.starts = 0  # workers so far
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process, if there is one."""
        return self._worker.process.pid if self._worker else None

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """For each pair (known answer, other answer): whether they are equal; None where the time was up.

        One that needs too much memory is not equal to anything. Raises RuntimeError if no worker starts: to go on would
        be to call every answer wrong.
        """
        with self._lock:
            try:
                return [self._equal(*pair) for pair in pairs]
            except BaseException:  # an interrupt, say: its reply would be taken for the next pair's
                self._lose()
                raise

    def close(self) -> None:
        """Ends the worker. Whoever asks again starts another one."""
        with self._lock:
            self._lose()

    def _equal(self, gold: str, answer: str) -> bool | None:
        for _ in range(2):  # that somebody has ended a worker says nothing of the answer: the next one is asked
            try:
                return self._started().ask([gold, answer], self.patience) == math_worker.EQUAL
            except TimeoutError:
                break
            except EOFError:
                if self._lose() == -signal.SIGPROF:  # its own limit
                    break
        self._lose()
        return None

    def _started(self) -> "_Worker":
        if self._worker and self._worker.process.poll() is None:
            return self._worker
        said = ""
        for attempt in range(STARTS):
            self._lose()
            time.sleep(attempt)
            self.starts += 1
            try:
                self._worker = _Worker(self.seconds, self.memory)
                if self._worker.reply(self.patience) == math_worker.READY:
                    return self._worker
            except (OSError, EOFError) as error:  # TimeoutError is an OSError
                said = (self._worker and self._worker.last_words()) or str(error)
        self._lose()
        raise RuntimeError(f"no process that grades answers can be started: {said}")

    def _lose(self) -> int | None:
        """Ends the worker, if there is one; returns its exit status."""
        worker, self._worker = self._worker, None
        return worker.end() if worker else None


_RUN = f"from {math_worker.__name__} import main; main()"  # by -m, Python would warn that it is imported already


class _Worker:
    """One process, lines to it and lines from it."""

    def __init__(self, seconds: float, memory: int):
        self.process = subprocess.Popen(
            # -P: a file of the current folder that has a library's name is not it.
            [sys.executable, "-P", "-c", _RUN, str(seconds), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is meant for this process, which ends the worker with itself
        )
        self._finalizer = weakref.finalize(self, self.process.kill)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self._to, self._from, self._errors = self.process.stdin, self.process.stdout, self.process.stderr
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)
        self._read = b""

    def ask(self, question: list[str], patience: float) -> str:
        """The reply to a line; raises as `reply` does."""
        try:
            self._to.write(json.dumps(question).encode() + b"\n")
        except BrokenPipeError:
            raise EOFError("it has ended") from None
        return self.reply(patience)

    def reply(self, patience: float) -> str:
        """Its next line. Raises TimeoutError after `patience` seconds, EOFError if it has ended."""
        until = time.monotonic() + patience
        while b"\n" not in self._read:
            if not self._selector.select(max(0.0, until - time.monotonic())):
                raise TimeoutError(f"nothing within {patience:g} s")
            new = os.read(self._from.fileno(), 1 << 12)
            if not new:
                raise EOFError("it has ended")
            self._read += new
        line, self._read = self._read.split(b"\n", 1)
        return line.decode()

    def last_words(self) -> str:
        """The last line of its complaints; "" if there was none. Ends it."""
        self._finalizer()
        return self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]

    def end(self) -> int:
        """Ends it, if it hasn't ended by itself; returns its exit status."""
        self._finalizer()
        status = self.process.wait()
        self._selector.close()
        for file in (self._to, self._from, self._errors):
            file.close()
        return status
