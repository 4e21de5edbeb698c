"""What all commands share: how a command line is read, and what Ctrl-C does to one."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from absl import app


def run(main: Callable[..., int], overridable: bool = True) -> None:
    """Ends the process with the exit code of a command, with 130 after Ctrl-C.

    The command is called as `main(arguments, overrides)`, see `split_argv`, or else as `main(arguments)`.
    """
    sys.unraisablehook = _unraisable
    others, overrides = split_argv(sys.argv) if overridable else (sys.argv, None)

    def heard(argv: list[str]) -> None:
        try:
            sys.exit(main(argv) if overrides is None else main(argv, overrides))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:  # who reads has closed, as `head` does: no word of it, now or at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)

    app.run(heard, argv=others)


def split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into (the other arguments, overrides): `--config.rl.tau=0.9` becomes `rl.tau=0.9`.

    `--config.rl.tau 0.9` works as well, and a switch may stand alone: `--config.rollout.constrain`.
    """
    others: list[str] = []
    overrides: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        match = re.match(r"--?config\.(.*)", argument, re.DOTALL)
        if not match:
            others.append(argument)
        elif "=" in match[1]:
            overrides.append(match[1])
        elif rest and not re.match(r"-{1,2}[a-zA-Z]", rest[0]):
            overrides.append(f"{match[1]}={rest.pop(0)}")
        else:
            overrides.append(f"{match[1]}=true")
    return others, overrides


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Python drops what is raised in a callback of its garbage collector, Ctrl-C too, which comes again soon after."""
    if lost.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)
