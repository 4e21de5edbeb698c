"""The process behind `math_grader.py`: reads pairs of answers, a line of JSON each, and says whether they are equal.

A pair that takes more processor time than `math_grader.py` allows ends the process, wherever in sympy it is; one that
needs more memory is not equal. What math-verify prints goes nowhere.
"""

import contextlib
import json
import logging
import os
import signal
import sys

READY, EQUAL, OTHER = "ready", "equal", "other"


def main() -> None:
    """Replies until its input ends. Arguments: seconds of processor time a pair, bytes of address space."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    from asyncthink_jax.tasks import (
        math_sympy,
    )  # after that: it takes a second, and an error of it goes to where errors are looked for

    logging.disable(logging.CRITICAL)
    _limit(memory)
    print(READY, file=replies)
    os.dup2(nowhere, 2)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF: not even a loop in C goes on
        try:
            is_equal = math_sympy.equal(gold, answer)
        except Exception:  # whatever ANTLR and sympy raise, RecursionError and MemoryError among it
            is_equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(EQUAL if is_equal else OTHER, file=replies)


def _limit(memory: int) -> None:
    """Address space, where the system has such a limit; no file is written, no core dumped."""
    import resource

    for what, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS limits no address space
            resource.setrlimit(what, (limit, limit))
