"""Runs commands of the package, each in a process of its own, without importing JAX each time.

A server imports the modules that all commands need, and then forks for each request. The child is the command: it has
its own command line, streams, exit code and memory, and can be killed. No server ever starts a device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MEMORY = 2 * 2**30  # bytes that a command may have resident


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended.

    code: exit code; minus the signal's number if a signal ended it; None if it was ended after its time limit.
    out, err: what it wrote to stdout and stderr. memory: most bytes that were resident. seconds: wall-clock.
    """

    code: int | None
    out: str
    err: str
    memory: int
    seconds: float

    @property
    def fault(self) -> str:
        """The fault of a command, in a word; "" if there is none."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        if self.code is None:
            return "hang"
        if "Traceback (most recent call last)" in self.err + self.out:
            return "traceback"
        if self.code < 0:
            return f"signal {-self.code}"
        if self.memory > MEMORY:
            return "memory"
        if self.code and not (lines and lines[-1].startswith("error: ")):
            return "no error line"
        if self.code and any(not line.startswith("warning: ") for line in lines[:-1]):
            return "more than one line"
        return ""


class ForkServer:
    """A process that forks a child for each command. It has no threads of its own, so a fork is safe.

    Args:
        folder: for the files of the children's streams.
        compiled: folder of the programs that JAX has compiled, for all children of all servers.
    """

    def __init__(self, folder: Path, compiled: Path):
        self.folder = folder
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PLATFORMS": "cpu",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.fork_server", str(folder)],
            env=os.environ | cache,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, words: Sequence[str | os.PathLike[str]], limit: float = 120) -> int:
        """Starts `python WORDS..` (`-m module arguments` or `file arguments`); returns the process id of the child."""
        assert self._process.stdin and self._process.stdout
        request = {"words": [os.fspath(word) for word in words], "limit": limit}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline())["pid"])

    def wait(self) -> Outcome:
        """Waits for the child that was started last; returns its outcome."""
        assert self._process.stdout
        ended = json.loads(self._process.stdout.readline())
        texts = [(self.folder / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]
        return Outcome(ended["code"], *texts, ended["memory"], ended["seconds"])

    def run(self, words: Sequence[str | os.PathLike[str]], limit: float = 120) -> Outcome:
        """`start`, then `wait`."""
        self.start(words, limit)
        return self.wait()

    def close(self) -> None:
        """Ends the server."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def _serve(folder: Path) -> None:
    import flax  # noqa: F401
    import jax  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import optax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import rich.live  # noqa: F401
    import sentencepiece  # noqa: F401
    import tensorboardX  # noqa: F401
    import tensorflow_datasets  # noqa: F401

    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _be_the_command(request["words"], folder)
        print(json.dumps({"pid": pid}), file=replies, flush=True)
        code, memory = _ended(pid, started + request["limit"])
        reply = {"code": code, "memory": memory, "seconds": time.monotonic() - started}
        print(json.dumps(reply), file=replies, flush=True)


def _ended(pid: int, deadline: float) -> tuple[int | None, int]:
    """Exit code (None after the deadline) and peak resident bytes of a child; a child ends with its requester."""
    late, asker = False, os.getppid()
    while True:
        if os.getppid() != asker:
            os.kill(pid, signal.SIGKILL)
            os._exit(1)
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return None if late else os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        if not late and time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            late = True
        time.sleep(0.005)


def _be_the_command(words: Sequence[str], folder: Path) -> None:
    """Becomes `python WORDS..` and never returns."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = list(words[1:])
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(words)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        # What is registered to run at the end runs, as in a process of one's own; then no handler of the server's.
        import atexit

        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        os._exit(code)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
