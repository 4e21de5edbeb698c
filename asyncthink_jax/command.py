"""What all commands share: how a command line is read, what Ctrl-C does to one, and where a file or stream fails it."""

import contextlib
import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags

from asyncthink_jax.files import FileError, naming
from asyncthink_jax.shown import complain

STREAMS = ("stdin", "stdout", "stderr")
# Of a disk, a quota or a device: with these an error tells all, even where it names no file.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EBADF}
_OUT_OF_MEMORY = re.compile(r"\bRESOURCE_EXHAUSTED\b|\bout of memory\b", re.IGNORECASE)  # as XLA says it
_closed: set[str] = set()  # of STREAMS: those that this process was started without


def run(main: Callable[..., int], overridable: bool = True) -> None:
    """Ends the process with the exit code of a command, with 130 after Ctrl-C.

    The command is called as `main(arguments, overrides)`, see `split_argv`, or else as `main(arguments)`. A file that
    can't be read or written, a standard stream included, ends it in one line: with 2 if the file is damaged, else 1.
    """
    sys.unraisablehook = _unraisable
    prepare_streams()
    others, overrides = split_argv(sys.argv) if overridable else (sys.argv, None)

    def heard(argv: list[str]) -> None:
        with ending():
            _check_bytes(overrides or [])
            code = main(argv) if overrides is None else main(argv, overrides)
        # What has failed in the middle of things may have left threads and writes that would tell of it at the end.
        if code == 1 and not _others():
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)

    with ending():  # --help is printed by absl
        app.run(heard, argv=others, flags_parser=_parsed)


def _parsed(argv: Sequence[str]) -> list[str]:
    """The arguments that are no flags. A wrong flag ends the process with 2, --help with 0; absl ends both with 1."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        complain(f"error: {error} (see --help)")
        sys.exit(2)
    except SystemExit:
        sys.exit(0)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Around a whole command: what is wrong with a file or a stream ends the process, as `run` says."""
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # now, where an error can still be told
    except KeyboardInterrupt:
        complain("interrupted")
        _exit(130)
    except BrokenPipeError:  # who reads has closed, as `head` does: no word of it
        _exit(141)
    except FileError as error:
        complain(f"error: {error}")
        _exit(2)
    except OSError as error:
        if error.filename is None and error.errno not in _OF_WRITING:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        complain(f"error: {where}{error.strerror or error}")
        _exit(1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        said = " ".join(str(error).split())[:200]
        complain(f"error: out of memory{f' ({said})' if said else ''}: a smaller model, fewer slots or rows take less")
        _exit(1)


def _others() -> bool:
    """Whether this is one of several processes: the first must not be gone before the others have heard why."""
    joined = sys.modules.get("asyncthink_jax.parallel.multihost")  # which imports jax, and few commands need that
    return joined is not None and joined.count() > 1


def prepare_streams() -> None:
    """Has the standard streams take any text, and be there.

    A character that their encoding doesn't have is escaped. One that is closed would be None, and its number that of
    the next file opened: it becomes the null device, and `is_closed` tells of it.
    """
    for number, name in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            _closed.add(name)
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
        elif number and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            if name == "stdout":
                sys.stdout = _Output(stream)


class _Output(io.TextIOWrapper):
    """Standard output, whose errors say that they are of it."""

    def __init__(self, stream: io.TextIOWrapper):
        self._replaced = stream  # loggers may have it, and without a reference it would close what both write to
        super().__init__(
            stream.buffer,
            stream.encoding,
            "backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str) -> int:
        with naming("standard output"):
            return super().write(text)

    def flush(self) -> None:
        with naming("standard output"):
            super().flush()


def is_closed(stream: str) -> bool:
    """Whether this process was started without "stdin", "stdout" or "stderr"."""
    return stream in _closed


def _exit(code: int) -> Any:
    """Ends the process; what a stream can't take is dropped, else Python would complain of it at the end."""
    for name in STREAMS[1:]:
        stream = getattr(sys, name)
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _check_bytes(overrides: Sequence[str]) -> None:
    """Raises FileError for a name of a file, or another argument, in bytes that are no UTF-8; a question may be any."""
    values = {f"--{name}": value for name, value in flags.FLAGS.flag_values_dict().items() if name != "question"}
    for name, value in [*values.items(), *(("--config", one) for one in overrides)]:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
                raise FileError(f"{name} {text!r} is not UTF-8; use a name that is")


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
