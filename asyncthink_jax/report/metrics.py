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
from tensorboardX import SummaryWriter

from asyncthink_jax.shown import harmless

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
        self._event_writers: dict[str, SummaryWriter] = {}

    @property
    def position(self) -> int:
        """Bytes written so far, for the checkpoint."""
        return self._file.tell()

    def write(self, stage: str, step: int, numbers: Mapping[str, Any]) -> None:
        """Appends one line; it outlives a kill of this process. A number that isn't finite is written as null."""
        plain = {name: _plain(value) for name, value in numbers.items()}
        self._file.write(json.dumps({"stage": stage, "step": step, **plain}).encode() + b"\n")
        self._file.flush()
        events = self._events(stage, step)
        for name, value in plain.items():
            if value is not None:
                events.add_scalar(name, value, step)

    def _events(self, stage: str, step: int) -> SummaryWriter:
        """A folder a stage, since TensorBoard purges by step what a resumed run writes again."""
        if stage not in self._event_writers:
            folder = str(self._folder / "tensorboard" / stage)
            purge = {"purge_step": step} if self._resumed else {}
            self._event_writers[stage] = SummaryWriter(folder, flush_secs=10, write_to_disk=True, **purge)
        return self._event_writers[stage]

    def close(self) -> None:
        self._file.close()
        for writer in self._event_writers.values():
            writer.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open_at(path: Path, position: int) -> BinaryIO:
    path.touch()
    file = path.open("r+b", buffering=0)
    size = file.seek(0, os.SEEK_END)
    file.truncate(min(position, size))  # shorter where somebody has removed the file: then its start is missing
    file.seek(0, os.SEEK_END)
    return file


def _plain(value: Any) -> int | float | None:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | int):
        return int(value)
    return float(value) if math.isfinite(value) else None


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without a last one that a kill cut short. Raises ValueError for another file."""
    return read_lines(path, {"stage", "step"})


def read_lines(path: str | os.PathLike[str], fields: Set[str]) -> list[dict[str, Any]]:
    """The objects of a file with one a line, without a last one that is cut short (or is still being written).

    Raises ValueError, in one line with file and line number, if one is no JSON object or lacks one of the `fields`.
    """
    found = []
    with AnyPath(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                one = json.loads(line)
            except ValueError as error:  # broken JSON, or bytes that are no UTF-8
                raise ValueError(f"{os.fspath(path)} line {number} is no JSON: {error}") from error
            missing = sorted(fields - one.keys()) if isinstance(one, dict) else sorted(fields)
            if missing:
                raise ValueError(f"{os.fspath(path)} line {number} has no {' and no '.join(missing)}")
            found.append(one)
    return found


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
            self._live.update(_live_line(stage, step, self._steps[stage], parts, left_s))
        elif is_first or left <= 0 or now - self._last_line_s >= self._interval_s:
            self._last_line_s = now
            words = [f"{stage} {step}/{self._steps[stage]}"]
            words += [f"{label} {value}" for label, value in parts] + ([f"{minutes(left_s)} left"] if left_s else [])
            self.say(" | ".join(words))

    def say(self, text: str) -> None:
        """Prints a line (above the live one)."""
        self._console.print(harmless(text), highlight=False, markup=False, soft_wrap=True)

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


def _live_line(stage: str, step: int, steps: int, parts: list[tuple[str, str]], left_s: float | None) -> Text:
    width = 20
    filled = width * min(step, steps) // max(steps, 1)
    line = Text.assemble(
        (f"{stage:>4} ", "bold"),
        ("━" * filled, "cyan"),
        ("━" * (width - filled), "bright_black"),
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
