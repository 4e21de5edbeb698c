"""Writes the report of a run: PNG files of its figures, and the page that has them all (paper, Figures 5 to 11)."""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from asyncthink_jax.files import FileError, check_writable, replace_text, replacing
from asyncthink_jax.report import figures, timeline
from asyncthink_jax.report.choice import choose
from asyncthink_jax.report.page import Drawn, DrawnEpisode, page
from asyncthink_jax.report.run_files import ReportError, RunFiles, labels, merged_results, read_run
from asyncthink_jax.report.svg import inline

EPISODES = 4  # of an evaluation, unless told otherwise


def write_report(
    workdir: str | os.PathLike[str],
    *,
    compare: Sequence[str | os.PathLike[str]] = (),
    out: str | os.PathLike[str] | None = None,
    episodes: int = EPISODES,
) -> Path:
    """Writes `report.html` and `figures/*.png`; returns the path of the page.

    Args:
      workdir: the folder of the run.
      compare: folders of other runs, whose results and curves are drawn beside its own.
      out: the folder that is written; default the run's.
      episodes: how many of each evaluation are shown (`choice.py` says which).

    Raises ReportError if a folder holds no run, or a file is not what it should be.
    """
    run, *others = [read_run(os.fspath(folder)) for folder in (workdir, *compare)]
    results = merged_results([run, *others])
    folder = Path(workdir if out is None else out)
    try:
        for one in (folder, folder / "figures"):
            check_writable(one)
    except FileError as error:
        raise ReportError(str(error)) from error
    draw = _Figures(folder / "figures")
    with warnings.catch_warnings():
        # A script that the font of PNG files doesn't have; the page takes the reader's fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        bars, curves = _of_results(draw, run, results), _of_training(draw, run, others)
        chosen = _of_episodes(draw, run, episodes)
    written = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = page(run, others, results, bars=bars, curves=curves, episodes=chosen, written=written)
    path = folder / "report.html"
    replace_text(path, text)
    return path


class _Figures:
    """Draws a figure once: as a PNG file, and as an element of the page."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __call__(self, name: str, figure: Figure, label: str, as_file: bool = True) -> str:
        if as_file:
            with replacing(self._folder / f"{name}.png") as file:
                figure.savefig(file, format="png")
        return inline(figure, name, label)


def _of_results(draw: _Figures, run: RunFiles, results: Mapping[str, Any]) -> list[Drawn]:
    if not figures.ordered(results):
        return []
    bars = draw("at_least", figures.at_least_bars(results), "Share of problems with at least a correct solutions")
    against = figures.accuracy_against_path(results, run.lines)
    return [
        Drawn(
            bars, "After RL, or after the cold start where that is all. Whiskers: ± one standard error over problems."
        ),
        Drawn(
            draw("accuracy_against_path", against, "Share of problems with everything correct, over the critical path"),
            "Up and left is better: more right answers, fewer tokens one after the other. Dashed: what no other of the "
            "large marks beats in both.",
        ),
    ]


def _of_training(draw: _Figures, run: RunFiles, others: Sequence[RunFiles]) -> Drawn | None:
    if not run.lines:
        return None
    names = labels([run, *others])[1:]
    lines = {name: other.lines for name, other in zip(names, others, strict=True)}
    figure = figures.learning_curves(run.lines, lines, cold_start=run.had_cold_start)
    words = "Faint: each step. Strong: the mean over a tenth of the steps. Dots: validation. Diamonds: the cold start."
    return Drawn(draw("learning_curves", figure, "Learning curves over the steps of each stage"), words)


def _of_episodes(draw: _Figures, run: RunFiles, count: int) -> dict[str, list[DrawnEpisode]]:
    shown: dict[str, list[DrawnEpisode]] = {}
    for place, (name, episodes) in enumerate(run.episodes.items()):
        drawn = []
        for one in _checked(partial(choose, episodes, count), run, name):
            anchor = f"episode{place + 1}-{one.kind}"
            where = f"{name}, line {one.number}"
            figure = _checked(partial(timeline.draw, one.episode, anchor=anchor), run, where)
            # The run's own are files too; episode.png is the typical one.
            file = anchor if place else "episode" if one.kind == "typical" else f"episode_{one.kind}"
            svg = draw(file, figure, f"Timeline of an episode: {one.why}", as_file=place == 0)
            drawn.append(DrawnEpisode(one, anchor, svg))
        if drawn:
            shown[name] = drawn
    return shown


def _checked(make: Callable[[], Any], run: RunFiles, where: str) -> Any:
    """What `make` makes of episodes; ReportError if they lack what an episode has."""
    try:
        return make()
    except (LookupError, TypeError, ValueError, ArithmeticError, StopIteration, AttributeError, MemoryError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ReportError(f"{run.folder}/eval, {where}: not an episode as `evaluate` writes it ({told})") from error
