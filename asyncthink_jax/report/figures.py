"""Figures of a run: learning curves (paper, Figure 6), at least a correct (Figure 5), accuracy over critical path."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from asyncthink_jax.report.metrics import ROWS, STAGES, read_metrics
from asyncthink_jax.report.timeline import save_timeline

COLORS = {
    "async": "#24476b",
    "async_without_concurrency": "#6f9bd1",
    "sequential": "#d9a441",
    "parallel": "#5fa8a0",
    "control": "#9aa3ad",
    "oracle": "#b98bc0",
}
OTHER = "#d68a6a"
INK = "#22272e"
FAINT = "#6b7480"

# stage, title, [(metric, label, color)], axis in percent?
PANELS: list[tuple[str, str, list[tuple[str, str, str]], bool]] = [
    ("sft", "cold start: loss (nats a token)", [("loss", "loss", "#24476b")], False),
    ("rl", "accuracy (%)", [("accuracy", "mean", "#6f9bd1"), ("all_correct", "all correct", "#24476b")], True),
    ("rl", "critical path (tokens)", [("critical_path", "critical path", "#e0453a")], False),
    ("rl", "concurrency ratio η/c (%)", [("concurrency", "η/c", "#5fa8a0")], True),
    ("rl", "forks an episode", [("forks", "forks", "#b98bc0")], False),
    ("rl", "format errors (%)", [("format_error", "format errors", "#d9a441")], True),
]


# -------------------------------------------------------------------------------------------------- learning curves


def learning_curves(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel a quantity over the steps of its stage, from the lines of `metrics.jsonl`.

    Faint: each step. Strong: a centred mean. Dots: the stage "validation", whose step is the RL iteration.
    """
    panels = [panel for panel in PANELS if any(_points(lines, panel[0], name)[0].size for name, _, _ in panel[2])]
    columns = 3 if len(panels) > 2 else max(len(panels), 1)
    rows = max(-(-len(panels) // columns), 1)
    figure = _figure(4.0 * columns, 2.9 * rows)
    for i, (stage, title, series, in_percent) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        _style(axes, title)
        axes.set_xlabel("step" if stage == "sft" else "RL iteration", fontsize=9, color=FAINT)
        for name, label, color in series:
            scale = 100 if in_percent else 1
            steps, values = _points(lines, stage, name)
            if steps.size:
                axes.plot(steps, scale * values, color=color, alpha=0.22, linewidth=1)
                axes.plot(steps, scale * smoothed(values), color=color, linewidth=2.2, label=label)
            steps, values = _points(lines, "validation", name)
            if stage == "rl" and steps.size:
                dots = {"markersize": 6, "markeredgecolor": "white", "label": f"{label}, validation"}
                axes.plot(steps, scale * values, "o", color=color, **dots)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
        axes.margins(x=0.02)
        axes.set_ylim(bottom=0 if axes.get_ylim()[0] < 0 or in_percent or stage == "sft" else None)
    return figure


def _points(lines: Sequence[Mapping[str, Any]], stage: str, name: str) -> tuple[NDArray, NDArray]:
    points = [(line["step"], line[name]) for line in lines if line["stage"] == stage and line.get(name) is not None]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def smoothed(values: NDArray) -> NDArray:
    """Mean over a centred window of a tenth of the steps, as much of it as there is at both ends."""
    half, n = len(values) // 20, len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first, last = np.maximum(np.arange(n) - half, 0), np.minimum(np.arange(n) + half + 1, n)
    return (sums[last] - sums[first]) / (last - first)


# ---------------------------------------------------------------------------------------------------------- results


def at_least_bars(results: Mapping[str, Any]) -> Figure:
    """Share of problems with at least a correct solutions, a group of bars for each a; after RL, else after SFT."""
    entries = [(name, _last(stages)) for name, stages in _ordered(results)]
    counts = sorted({count for _, scores in entries for count in scores["at_least"]}, key=int, reverse=True)
    figure = _figure(7.6, 3.8)
    axes = figure.add_subplot()
    _style(axes, "problems with at least $a$ correct solutions (%)")
    width = 0.84 / max(len(entries), 1)
    for i, (name, scores) in enumerate(entries):
        at = np.arange(len(counts)) + (i - (len(entries) - 1) / 2) * width
        shares = np.array([100 * scores["at_least"].get(count, np.nan) for count in counts])
        axes.bar(at, shares, 0.92 * width, color=_color(name), label=_name(name))
        axes.errorbar(at, shares, _errors(scores, shares), fmt="none", ecolor=FAINT, elinewidth=1, capsize=2)
        for x, share in zip(at, shares, strict=True):
            if np.isfinite(share):
                label = {"ha": "center", "va": "top", "fontsize": 9 if len(entries) <= 3 else 7.5, "color": "white"}
                axes.text(x, share - 3, f"{share:.0f}", **label)
    axes.set_xticks(range(len(counts)), ["all" if i == 0 else f"≥ {count}" for i, count in enumerate(counts)])
    axes.tick_params(axis="x", labelsize=10.5, labelcolor=INK, length=0)
    axes.set_ylim(0, 104)
    _legend_below(figure, axes)
    return figure


def _errors(scores: Mapping[str, Any], shares: NDArray) -> NDArray:
    """Standard errors of the shares of n independent problems, in %."""
    p = shares / 100
    return 100 * np.sqrt(p * (1 - p) / max(scores["n"], 1))


def accuracy_against_path(results: Mapping[str, Any]) -> Figure:
    """All-correct over the critical path, an arrow from the cold start to RL for each paradigm; up left is best."""
    figure = _figure(6.4, 4.2)
    axes = figure.add_subplot()
    _style(axes, "all correct (%) against critical path (tokens)")
    axes.set_xlabel("critical path (tokens)", fontsize=9, color=FAINT)
    for name, stages in _ordered(results):
        pairs = [(stage, stages[stage]) for stage in ("after_sft", "after_rl") if stages.get(stage)]
        points = [(scores["critical_path"], 100 * scores["all_correct"]) for _, scores in pairs]
        color = _color(name)
        if len(points) == 2:
            arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.8, "shrinkA": 6, "shrinkB": 6}
            axes.annotate("", points[1], points[0], arrowprops=arrow)
        for (stage, _), (x, y) in zip(pairs, points, strict=True):
            face = "white" if stage == "after_sft" else color
            axes.plot([x], [y], "o", markersize=9, markerfacecolor=face, markeredgecolor=color, markeredgewidth=2)
        text = {"textcoords": "offset points", "fontsize": 10, "color": INK}
        axes.annotate(_name(name), points[-1], (9, 5), **text)
    axes.margins(x=0.22, y=0.16)
    handles = [
        axes.plot([], [], "o", markersize=8, markerfacecolor=face, markeredgecolor=FAINT, label=label)[0]
        for face, label in (("white", STAGES["after_sft"]), (FAINT, STAGES["after_rl"]))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9.5, labelcolor=INK)
    return figure


def _ordered(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Paradigms that have a sampled result, in the order of the table."""
    order = [*ROWS, *results["paradigms"]]
    named = {
        name: stages
        for name, stages in results["paradigms"].items()
        if stages.get("after_rl") or stages.get("after_sft")
    }
    return sorted(named.items(), key=lambda item: order.index(item[0]))


def _last(stages: Mapping[str, Any]) -> Mapping[str, Any]:
    return stages.get("after_rl") or stages["after_sft"]


def _name(name: str) -> str:
    return ROWS.get(name, name).split(" (")[0]


def _color(name: str) -> str:
    return COLORS.get(name, OTHER)


# ------------------------------------------------------------------------------------------------------------ style


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.grid(axis="y", color="#eef0f3", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, labelsize=9, labelcolor=FAINT, color="#c3c9d1")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c3c9d1")


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    style = {"frameon": False, "fontsize": 9.5, "labelcolor": INK, "ncols": min(len(handles), 3)}
    if handles:
        figure.legend(handles, labels, loc="outside lower center", **style)


def save_figures(
    folder: str | os.PathLike[str],
    *,
    lines: Sequence[Mapping[str, Any]] = (),
    results: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes the figures that there are numbers for into `folder`; returns the paths."""
    os.makedirs(folder, exist_ok=True)
    figures: dict[str, Figure] = {}
    if lines:
        figures["learning_curves.png"] = learning_curves(lines)
    if results is not None and _ordered(results):
        figures["at_least.png"] = at_least_bars(results)
        figures["accuracy_against_path.png"] = accuracy_against_path(results)
    paths = [os.path.join(folder, name) for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path)
    return paths


def draw_run(workdir: str | os.PathLike[str], name: str, results: Mapping[str, Any]) -> list[str]:
    """Writes all figures of a run into `workdir/figures`: curves, bars, and the timeline of one real episode.

    The episode is the first of `eval/<name>/episodes.jsonl` that found everything with as many Forks as most do.
    """
    workdir = Path(workdir)
    metrics, episodes = workdir / "metrics.jsonl", workdir / "eval" / name / "episodes.jsonl"
    folder = workdir / "figures"
    paths = save_figures(folder, lines=read_metrics(metrics) if metrics.exists() else (), results=results)
    if episodes.exists():
        with open(episodes, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        right = [line for line in lines if line["score"]["accuracy"] == 1.0 and not line["format_error"]]
        if right or lines:
            chosen = typical_episode(right or lines)
            save_timeline(chosen, folder / "episode.png")
            paths.append(str(folder / "episode.png"))
    return paths


def typical_episode(episodes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The episode of the most common number of traces whose critical path is the median of those."""
    counts = [len(episode["traces"]) for episode in episodes]
    usual = max(set(counts), key=counts.count)
    alike = sorted((e for e in episodes if len(e["traces"]) == usual), key=lambda e: e["critical_path"])
    return alike[len(alike) // 2]
