"""The peer's end of the pipe (see `../peer.py`). Runs in the peers' environment and imports nothing of ours."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def requests() -> Iterator[tuple[dict[str, Any], Callable[[dict[str, Any]], None]]]:
    """(request, function that answers it), one after the other, until the benchmark closes the pipe.

    What libraries print goes to the standard error output from here on.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    for line in sys.stdin:
        yield json.loads(line), answer


class Clock:
    """Runs from its creation on."""

    def __init__(self):
        self.started, self.processor = time.perf_counter(), time.process_time()

    def time(self) -> dict[str, float]:
        """Seconds on the clock, and of processor time, so far."""
        return {"seconds": time.perf_counter() - self.started, "processor": time.process_time() - self.processor}


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """What `work` takes."""
    clock = Clock()
    work()
    return clock.time()
