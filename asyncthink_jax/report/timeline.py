"""One episode as a picture: a lane per agent over the steps, forks, joins, waiting, and the critical path.

What has to be drawn, in steps and lanes, says `report/layout.py`.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from asyncthink_jax.report.layout import Bar, Layout, Link, asked, clean, layout, worker_texts
from asyncthink_jax.report.style import FAINT, INK, WORKERS, Look, color, hover, new_figure
from asyncthink_jax.report.text import harmless, shortened

ORGANIZER, WAITING, RETURNED, CRITICAL = (color(name) for name in ("navy", "waiting", "returned", "critical"))


# ---------------------------------------------------------------------------------------------------------- drawing


def draw(episode: Mapping[str, Any], *, width: float = 12.0, anchor: str = "") -> Figure:
    """The timeline of an episode.

    Args:
      episode: in the format of `episodes.jsonl`.
      width: in inches.
      anchor: on a page, bars and arrows lead to the ids `<anchor>-<n>`, where the text of trace n stands.
    """
    plan = layout(episode)
    height = 0.74 * len(plan.lanes) + 1.75
    figure = new_figure(width, height, constrained=False)
    axes = figure.add_axes((1.05 / width, 0.95 / height, 1 - 1.25 / width, 0.74 * len(plan.lanes) / height))
    axes.set_xlim(0, max(plan.steps, 1) * 1.004)
    axes.set_ylim(len(plan.lanes) - 0.42, -0.5)
    axes.set_facecolor("none")
    for lane in range(len(plan.lanes)):
        axes.axhline(lane, color=color("grid"), linewidth=1.0, zorder=0)
    told = Told(episode, plan, anchor)
    late = {bar.fork_id for bar in plan.bars if bar.kind == "returned"}
    for link in plan.links:
        for artist in _draw_link(axes, link, is_late=link.kind == "join" and link.fork_id in late):
            hover(artist, told.of_link(link))
    for bar in plan.bars:
        for artist in _draw_bar(axes, bar):
            hover(artist, told.of_bar(bar), told.place(bar))
    _draw_critical(axes, plan.critical)
    _draw_axes(axes, plan)
    _draw_labels(figure, axes, plan, episode)
    _draw_title(figure, episode, height, width)
    _draw_legend(figure, plan, width)
    return figure


def save_timeline(episode: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes the timeline as PNG (or SVG or PDF, by the name)."""
    draw(episode).savefig(path)


HALF = 0.29  # half the height of a bar, in lanes
ANSWER = 110  # characters of an answer above the lanes


def _worker_colors(fork_id: int) -> tuple[str, str]:
    """Of its bar, and of the lines of its Fork and its Join."""
    return WORKERS[(fork_id - 1) % len(WORKERS)]


def _draw_bar(axes: Axes, bar: Bar) -> list[Artist]:
    if bar.end <= bar.start:
        return []
    if bar.kind == "returned":
        line: Look = {"color": RETURNED, "linewidth": 3.0, "solid_capstyle": "butt", "zorder": 1.5}
        return [*axes.plot([bar.start, bar.end], [bar.lane] * 2, **line)]
    fill = {"organizer": ORGANIZER, "waiting": WAITING}.get(bar.kind) or _worker_colors(bar.fork_id or 1)[0]
    x_per_inch, y_per_inch = _units_per_inch(axes)
    half = 0.5 * HALF if bar.kind == "waiting" else HALF
    radius = min(0.05 * x_per_inch, 0.4 * (bar.end - bar.start)) if bar.kind == "worker" else 0
    box = axes.add_patch(
        FancyBboxPatch(
            (bar.start, bar.lane - half),
            bar.end - bar.start,
            2 * half,
            boxstyle=f"round,pad=0,rounding_size={radius}" if radius else "square,pad=0",
            mutation_aspect=y_per_inch / x_per_inch,
            facecolor=fill,
            edgecolor="none",
            zorder=2,
        )
    )
    if bar.failed:
        axes.plot([bar.end], [bar.lane], marker="X", color=CRITICAL, markersize=11, zorder=5, clip_on=False)
    return [box]


def _units_per_inch(axes: Axes) -> tuple[float, float]:
    box = axes.get_position()
    assert isinstance(axes.figure, Figure)
    width, height = axes.figure.get_size_inches()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return (right - left) / (box.width * width), abs(top - bottom) / (box.height * height)


def _draw_link(axes: Axes, link: Link, is_late: bool) -> list[Artist]:
    """Behind the bars, so that a link to a lower lane shows in the gaps between the lanes above it.

    A late join starts where the line of the result that waits ends, at the middle of the lane.
    """
    line = _worker_colors(link.fork_id)[1]
    shaft = axes.plot([link.step] * 2, [0, link.lane - (0 if is_late else HALF)], color=line, linewidth=1.6, zorder=1)
    marker, tip = ("v", link.lane - HALF - 0.05) if link.kind == "fork" else ("^", HALF + 0.05)
    head: Look = {
        "marker": marker,
        "color": line,
        "markersize": 6,
        "markeredgewidth": 0,
        "clip_on": False,
        "zorder": 3.5,
    }
    return [*shaft, *axes.plot([link.step], [tip], **head)]


def _draw_critical(axes: Axes, critical: list[tuple[int, int, int]]) -> None:
    """Along the lower edge of the bars; from lane to lane behind the bars, so that it strikes out no text."""
    line: Look = {"color": CRITICAL, "linewidth": 2.8, "solid_capstyle": "round", "clip_on": False}
    edge = HALF + 0.06
    for i, (lane, start, end) in enumerate(critical):
        axes.plot([start, end], [lane + edge] * 2, zorder=4, **line)
        if i:
            before = critical[i - 1][0]
            axes.plot([start] * 2, [before + edge, lane + edge], zorder=1.8, **line)
            marker, tip = ("v", lane - HALF - 0.05) if lane > before else ("^", lane + edge + 0.08)
            axes.plot([start], [tip], marker=marker, color=CRITICAL, markersize=7, markeredgewidth=0, zorder=4.1)


def _draw_axes(axes: Axes, plan: Layout) -> None:
    axes.set_yticks(range(len(plan.lanes)), plan.lanes)
    axes.tick_params(axis="y", length=0, labelsize=11, labelcolor=INK, pad=8)
    axes.tick_params(axis="x", length=3, labelsize=9.5, labelcolor=FAINT, color=FAINT)
    axes.set_xlabel("step (tokens decoded one after the other)", fontsize=9.5, color=FAINT)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(color("axis"))


def _draw_labels(figure: Figure, axes: Axes, plan: Layout, episode: Mapping[str, Any]) -> None:
    """The sub-query and what was returned, in each worker's bar, as far as there is room."""
    texts = worker_texts(episode)
    for bar in plan.bars:
        if bar.kind == "worker" and bar.fork_id is not None:
            query, returned = texts.get(bar.fork_id, ("", ""))
            lines = [(f"{bar.fork_id}  {query}", 9.5, "bold", -0.12), (f"→ {returned}", 8.5, "normal", 0.13)]
            for text, size, weight, shift in lines:
                if text.strip("→ "):
                    look: Look = {"size": size, "weight": weight, "ink": color("on-worker")}
                    _fit(figure, axes, bar, text, y=bar.lane + shift, **look)
        elif bar.kind == "waiting":
            _fit(figure, axes, bar, "waits", size=8.5, weight="normal", y=bar.lane, ink=INK, centered=True)


def _fit(figure, axes, bar: Bar, text: str, *, size, weight, y, ink, centered=False) -> None:
    """Writes `text` into a bar; cut to the words that fit, or left out if not even the first does."""
    pad = 0.06 * _units_per_inch(axes)[0]
    style: Look = {"fontsize": size, "fontweight": weight, "color": ink, "va": "center", "zorder": 6}
    label = axes.text(bar.start + pad, y, harmless(text[:400]), parse_math=False, **style)
    renderer = FigureCanvasAgg(figure).get_renderer()
    to_data = axes.transData.inverted()

    def too_wide() -> bool:
        box = label.get_window_extent(renderer)
        return to_data.transform((box.x1, box.y1))[0] > bar.end - 0.5 * pad

    words = label.get_text().split(" ")

    def too_many(count: int) -> bool:
        label.set_text(" ".join(words[:count]).rstrip(" ,") + " …")
        return too_wide()

    if too_wide():
        # The longest start that fits: to measure text takes long, and the whole may be pages.
        count = 0 if centered else bisect.bisect_left(range(1, len(words)), True, key=too_many)
        start = " ".join(words[:count]).rstrip(" ,")
        label.set_text(f"{start} …" if start.strip("→ ") else "")
    if centered and label.get_text():
        label.set_x((bar.start + bar.end) / 2)
        label.set_ha("center")


def _draw_title(figure: Figure, episode: Mapping[str, Any], height: float, width: float) -> None:
    left, right = 0.22 / width, 1 - 0.2 / width
    title = shortened(harmless(asked(episode)), 54)
    figure.text(
        left, 1 - 0.27 / height, title, fontsize=14, fontweight="bold", color=INK, va="center", parse_math=False
    )
    facts = [f"critical path {episode['critical_path']} steps", f"η/c {episode['concurrency']:.2f}"]
    if episode.get("format_error"):
        facts.append(f"format error: {shortened(harmless(episode['format_error']), 40).replace('_', ' ')}")
    elif episode.get("score") and "correct" in episode["score"]:
        wanted = episode["problem"].get("n_solutions")
        facts.append(f"{episode['score']['correct']}{f' of {wanted}' if wanted else ''} correct")
    facts_look: Look = {"fontsize": 11, "color": INK, "va": "center", "ha": "right", "parse_math": False}
    figure.text(right, 1 - 0.27 / height, "   ·   ".join(facts), **facts_look)
    answer = "no answer" if episode.get("answer") is None else harmless(clean(episode["answer"]))
    answer = shortened(answer, ANSWER)
    figure.text(left, 1 - 0.55 / height, f"answers  {answer}", fontsize=11, color=FAINT, va="center", parse_math=False)


def _draw_legend(figure: Figure, plan: Layout, width: float) -> None:
    kinds = {bar.kind for bar in plan.bars}
    handles: list[Any] = [Patch(color=ORGANIZER, label="organizer decodes" if plan.links else "decodes")]
    if "worker" in kinds:
        handles.append(Patch(color=WORKERS[0][0], label="worker decodes, → returns"))
    if "waiting" in kinds:
        handles.append(Patch(color=WAITING, label="organizer waits"))
    if "returned" in kinds:
        handles.append(Line2D([], [], color=RETURNED, linewidth=3, label="result not joined yet"))
    if plan.links:
        arrow: Look = {"linestyle": "none", "color": FAINT, "markersize": 7}
        handles.append(Line2D([], [], marker="v", label="fork", **arrow))
        handles.append(Line2D([], [], marker="^", label="join", **arrow))
    handles.append(Line2D([], [], color=CRITICAL, linewidth=2.6, label="critical path"))
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.15 / width, 0.0),
        ncols=len(handles),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.4,
        columnspacing=1.6,
    )


# ------------------------------------------------------------------------------------------------- under the pointer

SHOWN = 600  # characters of a sub-query or of takeaways; the whole text stands below the timeline


class Told:
    """What a page says of the parts of a timeline, and where they lead."""

    def __init__(self, episode: Mapping[str, Any], plan: Layout, anchor: str):
        self._plan, self._anchor = plan, anchor
        self._texts = worker_texts(episode)
        traces = list(enumerate(episode["traces"]))
        self._workers = {trace["fork_id"]: n for n, trace in traces if trace["role"] == "worker"}
        self._organizers = [n for n, trace in traces if trace["role"] == "organizer"]

    def place(self, bar: Bar) -> str:
        """The id of the text of the bar's trace."""
        if not self._anchor:
            return ""
        number = self._organizers[bar.lane] if bar.fork_id is None else self._workers[bar.fork_id]
        return f"{self._anchor}-{number}"

    def of_bar(self, bar: Bar) -> str:
        steps = f"steps {bar.start + 1} to {bar.end} ({bar.end - bar.start})"
        if bar.kind == "waiting":
            join = next(one for one in self._plan.links if one.kind == "join" and one.step == bar.end)
            return f"organizer waits for worker {join.fork_id}, {steps}"
        if bar.kind == "organizer":
            name = self._plan.lanes[bar.lane]
            done = [self.of_link(one) for one in self._plan.links if bar.start < one.step <= bar.end]
            return "\n".join([f"{name} decodes, {steps}{self._failed(bar)}", *done])
        query, returned = (shortened(text, SHOWN) for text in self._texts.get(bar.fork_id or 0, ("", "")))
        if bar.kind == "returned":
            return f"result of worker {bar.fork_id} is there, not joined yet, {steps}\nreturned: {returned}"
        told = [f"worker {bar.fork_id} decodes, {steps}{self._failed(bar)}", f"sub-query: {query}"]
        return "\n".join(told + [f"returns: {returned}"] * bool(returned))

    def of_link(self, link: Link) -> str:
        query, returned = (shortened(text, SHOWN) for text in self._texts.get(link.fork_id, ("", "")))
        text = query if link.kind == "fork" else returned
        return f"step {link.step}: {link.kind} {link.fork_id}{f', {text}' if text else ''}"

    def _failed(self, bar: Bar) -> str:
        return ", ends by a format error" if bar.failed else ""
