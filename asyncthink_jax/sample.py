"""Asks a model a question and shows its agents at work, or reads questions from the terminal, one a line.

    python -m asyncthink_jax.sample --model runs/countdown_tiny --question "2 7 9 20 = 11"
    python -m asyncthink_jax.sample --model runs/countdown_tiny < questions.txt > answers.txt
    python -m asyncthink_jax.sample --model runs/countdown_tiny --paradigm parallel --agents 8 --json

On a terminal each agent has a lane while it runs. Elsewhere the finished episode comes as plain text, or with `--json`
as a line of JSON. Exit codes: 0 done, 2 for bad input (one line on stderr), 130 when interrupted.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from absl import flags, logging

from asyncthink_jax import command
from asyncthink_jax.config import CHECKPOINTS, PARADIGMS, ConfigError
from asyncthink_jax.sections import LARGEST
from asyncthink_jax.shown import complain

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Folder of a run, of safetensors files, .gguf file, gs://.., or a hub id.")
flags.DEFINE_string("question", None, "What is asked; default: what stands on standard input, a question a line.")
flags.DEFINE_integer("agents", None, "Organizer and workers, or parallel traces; default as the model was trained.")
flags.DEFINE_string("paradigm", None, f"One of {', '.join(PARADIGMS)}; default the run's own.")
flags.DEFINE_bool("constrain", None, "Sample only tokens that cannot cause a format error; default the run's own.")
flags.DEFINE_bool("json", False, "An episode a line as JSON, and nothing else on standard output.")
flags.DEFINE_integer("seed", 0, "Of the random numbers.")
flags.DEFINE_float("temperature", None, "Of the sampling, 0 = greedy; default the one RL trains at.")
flags.DEFINE_integer("max_tokens", None, "That the organizer may decode, and a worker at most; default the run's own.")
flags.DEFINE_string("checkpoint", "best", f"One of {', '.join(CHECKPOINTS)}: which parameters of the run answer.")

FRAME_S = 0.08  # least time between two pictures
EVERY = 8  # engine steps between two looks at an episode
BELOW = 7  # lines that come below the last picture, so that all of it can be seen together


def main(argv: list[str], overrides: list[str]) -> int:
    """Runs the command; returns its exit code."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options start with --, and a question needs quotes")
        _check_flags()
        return _sample(overrides)
    except ConfigError as error:
        complain(f"error: {error}")
        return getattr(error, "exit_code", 2)


def _check_flags() -> None:
    """Raises ConfigError for what is wrong whatever the model is."""
    if FLAGS.model is None:
        raise ConfigError("--model is missing; see --help")
    for name, choices in (("paradigm", PARADIGMS), ("checkpoint", CHECKPOINTS)):
        if getattr(FLAGS, name) not in (None, *choices):
            raise ConfigError(f"--{name} {getattr(FLAGS, name)!r} is not one of {', '.join(choices)}")
    for name in ("agents", "max_tokens"):
        if getattr(FLAGS, name) is not None and getattr(FLAGS, name) < 1:
            raise ConfigError(f"--{name} is {getattr(FLAGS, name)}, but must be at least 1")
    if FLAGS.paradigm == "sequential" and FLAGS.agents not in (None, 1):
        raise ConfigError(f"--agents {FLAGS.agents}: in the sequential paradigm one agent thinks alone")
    if not 0 <= FLAGS.seed < 2**31:
        raise ConfigError(f"--seed is {FLAGS.seed}, but must be from 0 to {2**31 - 1}")
    if FLAGS.temperature is not None and not 0 <= FLAGS.temperature <= LARGEST:
        raise ConfigError(f"--temperature is {FLAGS.temperature}, but must be a number from 0")
    if FLAGS.question is not None and not FLAGS.question.strip():
        raise ConfigError("--question is empty")
    if FLAGS.question is None and command.is_closed("stdin"):
        raise ConfigError("--question is missing, and standard input, where questions would stand, is closed")
    if command.is_closed("stdout"):
        raise ConfigError("standard output is closed, where the answers would go")


def _sample(overrides: list[str]) -> int:
    # Imported late, so that bad input is reported sooner.
    from rich.console import Console

    from asyncthink_jax.play.thinker import Settings, load_model

    names = ("paradigm", "agents", "temperature", "max_tokens", "constrain", "seed", "checkpoint")
    thinker = load_model(
        FLAGS.model, Settings(**{name: getattr(FLAGS, name) for name in names}, overrides=tuple(overrides))
    )
    console = Console()
    if FLAGS.question is not None:
        _ask(thinker, FLAGS.question, 0, console)
        return 0
    refused = False
    for number, question in enumerate(_questions()):
        try:
            _ask(thinker, question, number, console)
        except ConfigError as error:  # the next question may be a better one
            complain(f"error: {error}")
            refused = True
    return 2 if refused and not sys.stdin.isatty() else 0


def _questions() -> Iterator[str]:
    """The lines of standard input that aren't blank, to its end or Ctrl-D; a terminal shows a prompt sign."""
    if not sys.stdin.isatty():
        if hasattr(sys.stdin, "reconfigure"):  # whatever the terminal's encoding is: a file is in UTF-8
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="replace")
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401  (gives `input` its line editing)

    while True:
        try:
            if not sys.stdout.isatty():  # where `input` would write its prompt sign
                print("> ", end="", file=sys.stderr, flush=True)
            line = input("> " if sys.stdout.isatty() else "")
        except EOFError:
            print(file=sys.stderr)
            return
        if line.strip():
            yield line.strip()


def _ask(thinker: Any, question: str, number: int, console: Any) -> None:
    """Has one question answered, and shows how."""
    from rich.live import Live
    from rich.text import Text

    from asyncthink_jax.report import lanes

    question = question.encode(errors="surrogateescape").decode(errors="replace")  # what the shell could not read
    thinker.prompt(question)  # a question that can't be asked is refused before anything is read or compiled
    to_json = lambda attempt: attempt.to_json(thinker.tokenizer.decode)  # noqa: E731
    if FLAGS.json or not console.is_terminal or not console.encoding.startswith("utf"):  # lanes are no ASCII
        # Watched all the same: Ctrl-C is heard where the host has control.
        episode = to_json(thinker.think(question, number, watch=lambda _: None, every=EVERY))
        print(json.dumps(episode) if FLAGS.json else "\n".join(_plain(episode)), flush=True)
        return
    pace = _Pace()
    with _no_echo(), Live(console=console, auto_refresh=False) as live:
        waits = "" if number else "reads the weights and compiles .."
        live.update(Text.assemble((lanes.one_line(question), "bold"), "  ", (waits, "bright_black")), refresh=True)

        def show(attempt: Any, is_last: bool = False) -> None:
            if not is_last and time.monotonic() < pace.due:
                return
            started = time.monotonic()
            shown = to_json(attempt)
            note = pace.note(shown)
            height = console.height - BELOW
            live.update(lanes.picture(shown, width=console.width, height=height, note=note), refresh=True)
            pace.drawn(started)

        finished = thinker.think(question, number, watch=show, every=EVERY)
        show(finished, is_last=True)
    console.print()
    for name, text in lanes.summary(to_json(finished)):
        console.print(Text.assemble((name.ljust(lanes.LABEL), "bright_black"), text))
    console.print()


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """What is typed meanwhile is kept for the next question, and not written into the picture."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = before.copy()
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _plain(episode: dict[str, Any]) -> list[str]:
    """A finished episode in lines that hold no control character."""
    from asyncthink_jax.report import lanes

    lines = [f"question: {lanes.one_line(episode['problem']['question'])}", "", *lanes.transcript(episode).split("\n")]
    lines.append("")
    for name, text in lanes.summary(episode):
        lines.append(f"{name}: " + text.replace("\n", "\n  "))
    return [*lines, ""]


class _Pace:
    """When a picture is due, and how fast the model is: without the time that compiling took."""

    def __init__(self) -> None:
        self.began: tuple[float, int] | None = None  # time and decoded tokens of the first look
        self.due = -math.inf

    def drawn(self, started: float) -> None:
        """A picture is drawn: the next is due when drawing takes a tenth of the time, since the model stands still."""
        now = time.monotonic()
        self.due = now + max(FRAME_S, 9 * (now - started))

    def note(self, episode: dict[str, Any]) -> str:
        now, decoded = time.monotonic(), sum(trace["decoded_tokens"] for trace in episode["traces"])
        if self.began is None:
            self.began = now, decoded
        seconds, tokens = now - self.began[0], decoded - self.began[1]
        speed = f" · {tokens / seconds:,.0f} tokens/s" if tokens and seconds > 0 else ""
        return f"step {episode['critical_path']} · {decoded} tokens{speed}"


if __name__ == "__main__":
    command.run(main)
