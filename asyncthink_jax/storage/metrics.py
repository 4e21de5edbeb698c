"""The numbers of a run: the files they are written to, the progress display, and the table of results.

A line of `metrics.jsonl` is `{"stage": "rl", "step": 12, "reward": 0.71, ...}`. The names that the display and the
figures know, each the mean over a step's episodes or tokens:

    loss               cross-entropy in nats a token (SFT) or the policy loss (RL)
    tokens_per_second  decoded or trained tokens
    reward             of an episode, all terms
    accuracy           R_A: the share of the solutions asked for that were found
    all_correct        share of episodes that found all of them
    critical_path      T, in decoded tokens
    concurrency        eta / c
    format_error       share of malformed episodes
    forks              Forks an episode
    kept               share of another model's answers that became demonstrations (`synthesize`)
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO

from etils.epath import Path as AnyPath
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from asyncthink_jax.files import FileError, append, naming, sealed, unsealed
from asyncthink_jax.shown import complain, harmless

# ------------------------------------------------------------------------------------------------------------ files


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard event files (`tensorboard/<stage>/`) of a run.

    Args:
      workdir: the folder of the run.
      position: bytes of `metrics.jsonl` to keep. A resumed run gives the `position` that was saved with its checkpoint:
        what was written after the checkpoint is cut off and comes again. 0 starts anew.
    """

    def __init__(self, workdir: str | os.PathLike[str], position: int = 0):
        self._folder = Path(workdir)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = _open_at(self._folder / "metrics.jsonl", position)
        self._resumed = position > 0
        self._event_writers: dict[str, EventsWriter] = {}

    @property
    def position(self) -> int:
        """Bytes written so far, for the checkpoint."""
        return self._file.tell()

    def write(self, stage: str, step: int, numbers: Mapping[str, Any]) -> None:
        """Appends one line; it outlives a kill of this process. A number that isn't finite is written as null.

        Raises OSError, with the file's name, where it can't be written: then nothing of it is.
        """
        plain = {name: _plain(value) for name, value in numbers.items()}
        append(self._file, json.dumps(sealed({"stage": stage, "step": step, **plain})).encode() + b"\n")
        with naming(self._folder / "tensorboard"):
            events = self._events(stage, step)
            for name, value in plain.items():
                if value is not None:
                    events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            events.flush()

    def _events(self, stage: str, step: int) -> EventsWriter:
        """A folder a stage, since TensorBoard purges by step what a resumed run writes again.

        The package's SummaryWriter writes in a thread: if the disk is full that thread dies, and the run waits for it.
        """
        if stage not in self._event_writers:
            folder = self._folder / "tensorboard" / stage
            folder.mkdir(parents=True, exist_ok=True)
            self._event_writers[stage] = writer = EventsWriter(str(folder / "events"))
            if self._resumed:
                start = SessionLog(status=SessionLog.START)
                writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))
        return self._event_writers[stage]

    def close(self) -> None:
        self._file.close()
        for writer in self._event_writers.values():
            with contextlib.suppress(OSError):  # all that could be written is: each line was flushed
                writer.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open_at(path: Path, position: int) -> BinaryIO:
    path.touch()
    file = path.open("r+b", buffering=0)
    size = file.seek(0, os.SEEK_END)
    if size < position:  # somebody has cut or removed it; what is left may end in the middle of a line
        position = path.read_bytes().rfind(b"\n") + 1
        complain(f"warning: {path} has lost lines that were in it at the last checkpoint; the figures lack them")
    file.truncate(position)
    file.seek(0, os.SEEK_END)
    return file


def _plain(value: Any) -> int | float | None:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | int):
        return int(value)
    return float(value) if math.isfinite(value) else None


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, up to the last whole one. Raises FileError for another file."""
    lines = read_lines(path, {"stage", "step"}, grows=True)
    for number, line in enumerate(lines, 1):
        odd = [name for name, value in line.items() if name != "stage" and not (value is None or is_number(value))]
        odd += [name for name, kind in (("step", int), ("stage", str)) if not isinstance(line[name], kind)]
        if odd:
            raise FileError(f"{os.fspath(path)} line {number}: {odd[0]} is {line[odd[0]]!r}; {_MEND}")
    return lines


_MEND = "put the file back from a copy, or remove the line"


def read_lines(path: str | os.PathLike[str], fields: Set[str], grows: bool = False) -> list[dict[str, Any]]:
    """The objects of a file with one a line.

    Args:
      path: the file, of this machine or of a bucket.
      fields: what each object has.
      grows: the file is appended to, so that a kill may have cut the last line short: it is left out.

    Raises FileError, in one line with file and line number, if one is no JSON object or lacks one of the `fields`.
    """
    found = []
    with AnyPath(path).open("rb") as file:
        *lines, rest = file.read().rstrip(b"\0").split(b"\n")  # after a loss of power, a file may end in zeros
    if rest.strip() and not grows:
        lines.append(rest)
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            one = json.loads(line)
        except (ValueError, RecursionError) as error:  # broken JSON, or bytes that are no UTF-8
            if grows and number == len(lines):
                break
            raise FileError(f"{os.fspath(path)} line {number} is no JSON: {error}; {_MEND}") from error
        try:
            one = unsealed(one) if isinstance(one, dict) else one
        except ValueError as error:
            raise FileError(f"{os.fspath(path)} line {number} {error}; {_MEND}") from error
        missing = sorted(fields - one.keys()) if isinstance(one, dict) else sorted(fields)
        if missing:
            raise FileError(f"{os.fspath(path)} line {number} has no {' and no '.join(missing)}; {_MEND}")
        found.append(one)
    return found


def is_number(value: object) -> bool:
    """Whether a value out of JSON is a number that fits into a float."""
    return isinstance(value, int | float) and (isinstance(value, float) or abs(value) < 1 << 1000)


# --------------------------------------------------------------------------------------------------------- progress


# name, label, format of the value, factor
SHOWN: list[tuple[str, str, str, float]] = [
    ("loss", "loss", "{:.3f}", 1),
    ("reward", "reward", "{:.3f}", 1),
    ("accuracy", "accuracy", "{:.1f}%", 100),
    ("kept", "kept", "{:.1f}%", 100),
    ("critical_path", "critical path", "{:.0f}", 1),
    ("concurrency", "concurrency", "{:.2f}", 1),
    ("format_error", "format errors", "{:.1f}%", 100),
    ("tokens_per_second", "tokens/s", "{:,.0f}", 1),
]


class Progress:
    """Shows how a run is doing: a live line on a terminal, elsewhere a line every few seconds.

        with Progress({"sft": 1200, "rl": 80}) as progress:
            progress.update("sft", 1, {"loss": 4.8, "tokens_per_second": 18_000})

    Args:
      steps: steps of each stage, in order.
      interval_s: least time between two plain lines; the first and the last of a stage are always printed.
      quiet: shows nothing.
    """

    def __init__(
        self,
        steps: Mapping[str, int],
        *,
        console: Console | None = None,
        interval_s: float = 5.0,
        now: Callable[[], float] = time.monotonic,
        quiet: bool = False,
    ):
        self._steps = dict(steps)
        self._console = console or Console(quiet=quiet, force_terminal=False if quiet else None)
        self._interval_s = interval_s
        self._now = now
        self._start: dict[str, tuple[int, float]] = {}  # stage -> step and time of its first update
        self._last_line_s = -math.inf
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None

    def update(self, stage: str, step: int, numbers: Mapping[str, Any]) -> None:
        """Shows that `step` of `stage` is done (counted from 1), with what was measured in it."""
        now = self._now()
        is_first = stage not in self._start
        first_step, first_s = self._start.setdefault(stage, (step, now))
        done, left = step - first_step, self._steps[stage] - step
        left_s = (now - first_s) / done * left if done else None
        parts = list(_parts(numbers))
        if self._live is not None:
            bar = "━" if self._console.encoding.startswith("utf") else "="
            self._live.update(_live_line(stage, step, self._steps[stage], parts, left_s, bar))
        elif is_first or left <= 0 or now - self._last_line_s >= self._interval_s:
            self._last_line_s = now
            words = [f"{stage} {step}/{self._steps[stage]}"]
            words += [f"{label} {value}" for label, value in parts] + ([f"{minutes(left_s)} left"] if left_s else [])
            self.say(" | ".join(words))

    def say(self, text: str) -> None:
        """Prints a line (above the live one)."""
        self._console.print(Text(harmless(text)), highlight=False, soft_wrap=True)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()


def _parts(numbers: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, label, form, factor in SHOWN:
        if numbers.get(name) is not None:
            yield label, form.format(float(numbers[name]) * factor)


def minutes(seconds: float) -> str:
    """A time as m:ss, or h:mm:ss."""
    whole, seconds = divmod(round(seconds), 60)
    hours, whole = divmod(whole, 60)
    return f"{hours}:{whole:02d}:{seconds:02d}" if hours else f"{whole}:{seconds:02d}"


def _live_line(stage: str, step: int, steps: int, parts: list[tuple[str, str]], left_s: float | None, bar: str) -> Text:
    width = 20
    filled = width * min(step, steps) // max(steps, 1)
    line = Text.assemble(
        (f"{stage:>4} ", "bold"),
        (bar * filled, "cyan"),
        (bar * (width - filled), "bright_black"),
        f" {step}/{steps}",
    )
    if left_s is not None:
        line.append(f"  {minutes(left_s)} left", "green")
    for label, value in parts:
        line.append(f"  {label} ", "bright_black")
        line.append(value)
    return line


# ---------------------------------------------------------------------------------------------------------- results

# Keys of results.json's "paradigms" -> name in the table, in its order; others come after these under their own name.
ROWS = {
    "async": "async",
    "async_without_concurrency": "async, no concurrency reward",
    "sequential": "sequential",
    "parallel": "parallel",
    "control": "control (cold start, trained on)",
    "oracle": "oracle (best demonstrations)",
}
STAGES = {
    "after_sft": "SFT",
    "after_rl": "SFT + RL",
    "after_sft_t1": "SFT",
    "after_rl_t1": "SFT + RL",
    "after_sft_greedy": "SFT, greedy",
    "after_rl_greedy": "SFT + RL, greedy",
}


def check_results(results: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the place, for an object that is no `results.json`."""
    for name, stages in _object(results.get("paradigms"), "paradigms").items():
        for stage, row in _object(stages, f"paradigms.{name}").items():
            if row is not None:
                check_scores(row, f"paradigms.{name}.{stage}")
    for name, seconds in _object(results.get("wall_clock_s") or {}, "wall_clock_s").items():
        _check(seconds is None or is_number(seconds), f"wall_clock_s.{name}", "a number")
    _check(isinstance(results.get("commit", ""), str), "commit", "a text")


def check_scores(row: Any, where: str) -> None:
    """Raises ValueError, which names the place, for an object that are no scores."""
    for name in ("n", "critical_path", "concurrency"):
        _check(is_number(_object(row, where).get(name)), f"{where}.{name}", "a number")
    averages = [name for name in row if name.startswith("avg@")]
    for name in ("temperature", "all_correct", "wrong", "format_error", "reward", *averages):
        _check(row.get(name) is None or is_number(row[name]), f"{where}.{name}", "a number")
    samples = row.get("samples", 1)
    _check(isinstance(samples, int) and samples > 0, f"{where}.samples", "a number of samples")
    _check(isinstance(row.get("split", ""), str), f"{where}.split", "the name of a split")
    for name in ("at_least", "stderr"):
        given = row.get(name, {}) if name == "stderr" else row.get(name)
        for key, value in _object(given, f"{where}.{name}").items():
            _check(value is None or is_number(value), f"{where}.{name}.{key}", "a number")
            _check(name == "stderr" or key.isdecimal(), f"{where}.{name}.{key}", "a count of solutions")
    for name, part in _object(row.get("groups", {}), f"{where}.groups").items():
        check_scores(part, f"{where}.groups.{name}")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    _check(isinstance(value, Mapping), where, "an object")
    return value


def _check(right: bool, where: str, what: str) -> None:
    if not right:
        raise ValueError(f"{where} is not {what}")


def result_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of a `results.json`: shares in %, with their standard error where it is known."""
    entries = [
        (f"  {group}" if group else ROWS.get(name, name), STAGES.get(stage, stage), part)
        for name, stages in sorted(results["paradigms"].items(), key=lambda item: _rank(item[0], ROWS))
        for stage, scores in sorted(stages.items(), key=lambda item: _rank(item[0], STAGES))
        if scores is not None
        for group, part in {"": scores, **scores.get("groups", {})}.items()
    ]
    counts = sorted({count for _, _, scores in entries for count in scores["at_least"]}, key=int)
    averages = sorted({name for _, _, scores in entries for name in scores if name.startswith("avg@")})
    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("temperature", lambda s: f"{s['temperature']:g}" if s.get("temperature") is not None else ""),
        ("all correct", lambda s: _share(s, "all_correct")),
        *[(name, lambda s, name=name: _share(s, name)) for name in averages],
        *[(f"≥ {count}", lambda s, count=count: _share(s, f"at_least/{count}")) for count in counts[:-1]],
        ("wrong", lambda s: _share(s, "wrong")),
        ("format errors", lambda s: _share(s, "format_error")),
        ("critical path", lambda s: f"{s['critical_path']:.1f}{_error(s, 'critical_path', 1)}"),
        ("η/c", lambda s: f"{s['concurrency']:.2f}"),
        ("reward", lambda s: f"{s['reward']:.3f}" if s.get("reward") is not None else ""),
        ("problems", lambda s: str(s["n"] // s.get("samples", 1))),
        ("samples", lambda s: str(s.get("samples", 1))),
    ]
    rows = [[name, stage, *[cell(scores) for _, cell in columns]] for name, stage, scores in entries]
    header = ["", "after", *[title for title, _ in columns]]
    used = [i for i in range(len(header)) if i < 2 or any(row[i] for row in rows)]
    return [header[i] for i in used], [[row[i] for i in used] for row in rows]


def _rank(key: str, order: Mapping[str, str]) -> tuple[int, str]:
    return (list(order).index(key) if key in order else len(order), key)


def _share(scores: Mapping[str, Any], name: str) -> str:
    group, _, count = name.partition("/")
    value = scores.get(group, {}).get(count) if count else scores.get(name)
    return "" if value is None else f"{100 * value:.1f}{_error(scores, name, 100)}"


def _error(scores: Mapping[str, Any], name: str, factor: float) -> str:
    error = scores.get("stderr", {}).get(name)
    return "" if error is None else f" ± {factor * error:.1f}"


def caption(results: Mapping[str, Any]) -> str:
    """What a reader must know of the table: split, commit, date, hardware, time."""
    splits = {s.get("split") for stages in results["paradigms"].values() for s in stages.values() if s} - {None}
    wall_clock = results.get("wall_clock_s") or {}
    parts = [
        "shares in %, ± standard error",
        f"{', '.join(sorted(splits))} split" if splits else "",
        *[str(results[key]) for key in ("hardware", "date") if results.get(key)],
        f"commit {results['commit'][:10]}" if results.get("commit") else "",
        ", ".join(f"{stage} {minutes(seconds)}" for stage, seconds in wall_clock.items() if seconds is not None),
    ]
    return "; ".join(part for part in parts if part)


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the table of a `results.json`."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    header, rows = result_rows(results)
    table = Table(
        title="results", caption=Text(harmless(caption(results))), title_justify="left", caption_justify="left"
    )
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i < 2 else "right")
    previous = None
    for row in rows:
        if previous not in (None, row[0]):
            table.add_section()
        cells = ["" if row[0] == previous else row[0], *row[1:]]
        table.add_row(*(Text(harmless(cell)) for cell in cells))
        previous = row[0]
    console.print(table)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """A Markdown table whose first `left` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])
