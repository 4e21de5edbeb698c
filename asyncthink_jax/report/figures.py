"""Figures of a run: at least a correct (paper, Figure 5), learning curves (6), accuracy against critical path (7)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from asyncthink_jax.report.style import FAINT, INK, PAPER, Look, color, hover, legend_below, new_figure, style
from asyncthink_jax.report.text import one_line, shortened
from asyncthink_jax.storage.metrics import ROWS, STAGES

PARADIGMS = {  # row of results.json -> its colour
    "async": "navy",
    "async_without_concurrency": "sky",
    "sequential": "orange",
    "parallel": "green",
    "control": "grey",
    "oracle": "purple",
}
MOST_NAMES = 6  # that stand beside their points
Label = tuple[str, tuple[float, float], str]  # a row's name, its last point, its colour
OTHERS = ["vermillion", "sky", "purple", "orange", "green", "grey"]  # of rows and runs with other names, in turn

# stage, title, [(metric, label, color)], axis in percent? Runs are compared by the last metric of a panel.
PANELS: list[tuple[str, str, list[tuple[str, str, str]], bool]] = [
    ("sft", "cold start: loss (nats a token)", [("loss", "loss", "navy")], False),
    ("rl", "accuracy (%)", [("accuracy", "mean", "sky"), ("all_correct", "all correct", "navy")], True),
    ("rl", "critical path (tokens)", [("critical_path", "critical path", "critical")], False),
    ("rl", "concurrency ratio η/c (%)", [("concurrency", "η/c", "green")], True),
    ("rl", "forks an episode", [("forks", "forks", "purple")], False),
    ("rl", "format errors (%)", [("format_error", "format errors", "orange")], True),
]
Lines = Sequence[Mapping[str, Any]]  # of a metrics.jsonl


# -------------------------------------------------------------------------------------------------- learning curves


def learning_curves(lines: Lines, others: Mapping[str, Lines] | None = None, *, cold_start: bool = True) -> Figure:
    """One panel a quantity over the steps of its stage, from the lines of `metrics.jsonl`.

    Faint: each step. Strong: a centred mean. Dots: the stage "validation", whose step is the RL iteration. Diamond: the
    first iteration, whose episodes are those of the cold start (no update came before them).

    Args:
      lines: of the run.
      others: lines of runs that it is compared with, by name: dashed, the mean alone.
      cold_start: whether RL began at one.
    """
    panels = [panel for panel in PANELS if any(_points(lines, panel[0], name)[0].size for name, _, _ in panel[2])]
    drawn = [(stage, series[-1][0]) for stage, _, series, _ in panels]
    others = {n: ls for n, ls in (others or {}).items() if any(_points(ls, *panel)[0].size for panel in drawn)}
    columns = 3 if len(panels) > 2 else max(len(panels), 1)
    rows = max(-(-len(panels) // columns), 1)
    figure = new_figure(4.0 * columns, 2.9 * rows + 0.3 * bool(others))
    for i, (stage, title, series, in_percent) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        style(axes, title)
        axes.set_xlabel("step" if stage == "sft" else "RL iteration", fontsize=9, color=FAINT)
        scale = 100 if in_percent else 1
        for name, label, hue in series:
            _draw_series(axes, lines, stage, name, label, color(hue), scale, cold_start)
        for n, other in enumerate(others.values()):
            steps, values = _points(other, stage, series[-1][0])
            axes.plot(steps, scale * smoothed(values), "--", color=color(OTHERS[n % len(OTHERS)]), linewidth=1.6)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
        axes.margins(x=0.02)
        axes.set_ylim(bottom=0 if axes.get_ylim()[0] < 0 or in_percent or stage == "sft" else None)
    if others and panels:
        # Handles of their own, since no single panel has them all.
        dashed = [
            figure.axes[0].plot([], [], "--", color=color(OTHERS[n % len(OTHERS)]), label=_shown(name))[0]
            for n, name in enumerate(others)
        ]
        look: Look = {"frameon": False, "fontsize": 9, "labelcolor": INK, "ncols": min(len(dashed), 4)}
        figure.legend(handles=dashed, loc="outside lower center", **look)
    return figure


def _draw_series(
    axes: Axes, lines: Lines, stage: str, name: str, label: str, hue: str, scale: int, cold_start: bool
) -> None:
    steps, values = _points(lines, stage, name)
    if steps.size:
        axes.plot(steps, scale * values, color=hue, alpha=0.25, linewidth=1)
        mean = scale * smoothed(values)
        (line,) = axes.plot(steps, mean, color=hue, linewidth=2.2, label=label)
        hover(line, f"{label}: {mean[0]:.4g} at step {steps[0]:.0f}, {mean[-1]:.4g} at step {steps[-1]:.0f} (mean)")
    if stage != "rl":
        return
    if cold_start and steps.size and steps[0] == 1:
        look: Look = {"markersize": 7, "markerfacecolor": PAPER, "markeredgecolor": hue, "markeredgewidth": 1.6}
        (mark,) = axes.plot(steps[:1], scale * values[:1], "D", **look, label=f"{label}, cold start", clip_on=False)
        hover(mark, f"after the cold start: {label} {scale * values[0]:.4g}")
    steps, values = _points(lines, "validation", name)
    for n, (step, value) in enumerate(zip(steps, scale * values, strict=True)):
        told = None if n else f"{label}, validation"
        (dot,) = axes.plot([step], [value], "o", color=hue, markersize=6, markeredgecolor=PAPER, label=told)
        hover(dot, f"validation at iteration {step:.0f}: {label} {value:.4g}")


def _points(lines: Lines, stage: str, name: str) -> tuple[NDArray, NDArray]:
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
    entries = [(name, _last(stages)) for name, stages in ordered(results)]
    counts = sorted({count for _, scores in entries for count in scores["at_least"]}, key=int, reverse=True)
    figure = new_figure(7.0, 4.4)
    axes = figure.add_subplot()
    style(axes, "problems with at least a correct solutions (%)")
    hues = _colors([name for name, _ in entries])
    width = 0.84 / max(len(entries), 1)
    for i, (name, scores) in enumerate(entries):
        at = np.arange(len(counts)) + (i - (len(entries) - 1) / 2) * width
        shares = np.array([100 * scores["at_least"].get(count, np.nan) for count in counts])
        errors = np.array([100 * scores.get("stderr", {}).get(f"at_least/{count}", 0.0) for count in counts])
        bars = axes.bar(at, shares, 0.92 * width, color=hues[name], label=_name(name))
        axes.errorbar(at, shares, errors, fmt="none", ecolor=FAINT, elinewidth=1, capsize=2)
        for bar, x, count, share, error in zip(bars, at, counts, shares, errors, strict=True):
            if np.isfinite(share):
                about = f" ± {error:.1f}" if error else ""
                hover(bar, f"{_name(name)}: {share:.1f}{about} % with at least {count} (n = {scores['n']})")
                size = 8.5 if len(entries) <= 3 else 7
                axes.text(x, share + error + 1.5, f"{share:.0f}", ha="center", va="bottom", fontsize=size, color=INK)
    axes.set_xticks(range(len(counts)), ["all" if i == 0 else f"≥ {count}" for i, count in enumerate(counts)])
    axes.tick_params(axis="x", labelsize=10.5, labelcolor=INK, length=0)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    legend_below(figure, axes)
    return figure


def accuracy_against_path(results: Mapping[str, Any], lines: Lines = ()) -> Figure:
    """All-correct over the critical path; up left is best.

    A hollow and a full circle for each paradigm, cold start and RL, with an arrow from one to the other and standard
    errors, named beside it or, of more than six, numbered in it; small, the same at other temperatures; dots, the
    validations of the run whose metrics `lines` are. The frontier goes through what nothing else of the same kind
    (sampled at the temperature of RL) beats in both.
    """
    figure = new_figure(7.0, 4.4)
    axes = figure.add_subplot()
    style(axes, "all correct (%) against critical path (tokens)")
    axes.set_xlabel("critical path (tokens)", fontsize=9, color=FAINT)
    main: list[tuple[float, float]] = []
    labels: list[Label] = []
    hues = _colors([name for name, _ in ordered(results)])
    for name, stages in ordered(results):
        hue = hues[name]
        points = {stage: _point(scores) for stage, scores in stages.items() if scores}
        for stage, (x, y) in points.items():
            told = f"{_name(name)}, {STAGES.get(stage, stage)}{_temperature(stages[stage])}: "
            told += f"{y:.1f} % all correct on a path of {x:.1f} tokens"
            if stage in ("after_sft", "after_rl"):
                error = stages[stage].get("stderr", {})
                spread = (100 * error.get("all_correct", 0), error.get("critical_path", 0))
                axes.errorbar([x], [y], *spread, fmt="none", ecolor=hue, elinewidth=1, alpha=0.7)
                face: Look = {"markerfacecolor": PAPER if stage == "after_sft" else hue, "markeredgecolor": hue}
                (mark,) = axes.plot([x], [y], "o", markersize=9, markeredgewidth=2, zorder=3, **face)
                main.append((x, y))
            else:
                look: Look = {"markersize": 5, "markeredgewidth": 0, "alpha": 0.65}
                (mark,) = axes.plot([x], [y], "D" if "greedy" in stage else "s", color=hue, **look)
            hover(mark, told)
        both = [points[stage] for stage in ("after_sft", "after_rl") if stage in points]
        if len(both) == 2:
            arrow = {"arrowstyle": "-|>", "color": hue, "linewidth": 1.6, "shrinkA": 6, "shrinkB": 6, "alpha": 0.8}
            axes.annotate("", both[1], both[0], arrowprops=arrow)
        labels.append((_name(name), both[-1], hue))
    validations = [line for line in lines if line["stage"] == "validation" and "critical_path" in line]
    for line in validations:
        x, y = _point(line)
        (dot,) = axes.plot([x], [y], "o", color=color("critical"), markersize=4, zorder=2.5)
        hover(dot, f"validation at iteration {line['step']}: {y:.1f} % all correct on a path of {x:.1f} tokens")
    best = frontier(main)
    axes.plot(*np.array(best).reshape(-1, 2).T, "--", color=color("axis"), linewidth=1.6, zorder=0.5)
    axes.margins(x=0.08, y=0.12)
    (_numbers if len(labels) > MOST_NAMES else _names)(axes, labels)
    _legend_of_marks(figure, axes, results, bool(validations))
    return figure


def _names(axes: Axes, labels: Sequence[Label]) -> None:
    """Each beside its point, inwards, so that none is cut off."""
    left, right = axes.get_xlim()
    for name, point, _ in labels:
        is_right = point[0] > left + 0.6 * (right - left)
        side: Look = {"xytext": (-9, -15) if is_right else (9, 7), "ha": "right" if is_right else "left"}
        axes.annotate(name, point, textcoords="offset points", fontsize=9.5, color=INK, **side)


def _numbers(axes: Axes, labels: Sequence[Label]) -> None:
    """In each point, and what they stand for beside the axes: so many names would lie over each other."""
    look: Look = {
        "ha": "center",
        "va": "center_baseline",
        "fontsize": 6.5,
        "fontweight": "bold",
        "color": PAPER,
        "zorder": 4,
    }
    told = []
    for number, (name, point, hue) in enumerate(labels, 1):
        axes.text(*point, str(number), **look)
        told += axes.plot([], [], "o", color=hue, markersize=7, label=f"{number}  {name}")
    assert isinstance(axes.figure, Figure)
    axes.figure.legend(handles=told, loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=INK)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (path, accuracy) those that no other one beats in both, by path."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def _legend_of_marks(figure: Figure, axes: Axes, results: Mapping[str, Any], has_validations: bool) -> None:
    rows = {stage for _, stages in ordered(results) for stage, scores in stages.items() if scores}
    marks = [("o", PAPER, FAINT, STAGES["after_sft"])]
    if "after_rl" in rows:
        marks.append(("o", FAINT, FAINT, STAGES["after_rl"]))
    if any("greedy" in row for row in rows):
        marks.append(("D", FAINT, "none", "greedy"))
    if any("_t" in row for row in rows):
        marks.append(("s", FAINT, "none", "other temperature"))
    if has_validations:
        marks.append(("o", color("critical"), "none", "validation"))
    handles = [
        axes.plot([], [], mark, markersize=7, markerfacecolor=face, markeredgecolor=edge, label=label)[0]
        for mark, face, edge, label in marks
    ]
    handles += axes.plot([], [], "--", color=color("axis"), linewidth=1.6, label="frontier")
    look: Look = {"ncols": len(handles), "frameon": False, "fontsize": 9, "labelcolor": INK, "columnspacing": 1.2}
    figure.legend(handles=handles, loc="outside lower center", **look)


def _point(scores: Mapping[str, Any]) -> tuple[float, float]:
    return scores["critical_path"], 100 * scores["all_correct"]


def _temperature(scores: Mapping[str, Any]) -> str:
    told = scores.get("temperature")
    return f", temperature {told:g}" if told else ""


def ordered(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
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
    return ROWS[name].split(" (")[0] if name in ROWS else _shown(name)


def _shown(name: str) -> str:
    """A name that a user chose. Its dollar signs would begin a formula, so they are wide ones."""
    return shortened(one_line(name), 40).replace("$", "\uff04")


def _colors(names: Sequence[str]) -> dict[str, str]:
    """Known rows have their own colour, others one of those that are left."""
    taken = {PARADIGMS.get(name) for name in names}
    left = itertools.cycle([hue for hue in OTHERS if hue not in taken] or OTHERS)
    return {name: color(PARADIGMS.get(name) or next(left)) for name in names}
