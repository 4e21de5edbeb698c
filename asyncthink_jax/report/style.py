"""How figures look: their colours on paper and on a dark screen, their axes, and what they say under a pointer.

Series have the colours of Okabe and Ito, workers the light scheme of Paul Tol (dark text stands on them): both are told
apart by people who see no red or no green.
"""

from __future__ import annotations

import json
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asyncthink_jax.report.text import harmless

# name -> on white (and in PNG files), on a dark screen. No colour on white stands here twice: svg.py finds its name.
COLORS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14181e"),
    "ink": ("#22272e", "#e4e8ee"),
    "faint": ("#67707c", "#9aa4b2"),
    "axis": ("#c3c9d1", "#414b58"),
    "grid": ("#eef0f3", "#252c36"),
    "navy": ("#24476b", "#86b4e8"),
    "on-navy": ("#fdfdfd", "#10151b"),
    "sky": ("#56b4e9", "#56b4e9"),
    "orange": ("#e69f00", "#e69f00"),
    "green": ("#009e73", "#18b88b"),
    "purple": ("#cc79a7", "#d58bb4"),
    "vermillion": ("#d55e00", "#e8762a"),
    "grey": ("#8c95a1", "#8c95a1"),
    "waiting": ("#dde1e6", "#343d49"),
    "returned": ("#b4bcc6", "#566170"),
    "critical": ("#dc3a30", "#ff6f61"),
    "on-worker": ("#181c22", "#181c22"),
}
# Fill, and line of a Fork and a Join, by fork id.
WORKERS = [
    ("#44bb99", "#1d8f70"),
    ("#77aadd", "#3f7fc1"),
    ("#eedd88", "#b39b1e"),
    ("#ffaabb", "#d9607c"),
    ("#ee8866", "#d2592f"),
    ("#99ddff", "#3fa7d6"),
    ("#bbcc33", "#8a9a10"),
]


def color(name: str) -> str:
    """The colour on white."""
    return COLORS[name][0]


INK, FAINT, PAPER = color("ink"), color("faint"), color("paper")


def css() -> str:
    """The colours as custom properties of a page, light or dark as its reader has it."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in COLORS.items()) for i in (0, 1))
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


Look = dict[str, Any]  # arguments of matplotlib by name


def new_figure(width: float, height: float, *, constrained: bool = True) -> Figure:
    """An empty figure of the given size in inches."""
    return Figure(figsize=(width, height), dpi=150, facecolor=PAPER, layout="constrained" if constrained else None)


def style(axes: Axes, title: str) -> None:
    axes.set_facecolor("none")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.grid(axis="y", color=color("grid"), linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, labelsize=9, labelcolor=FAINT, color=color("axis"))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(color("axis"))


def legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    look = {"frameon": False, "fontsize": 9.5, "labelcolor": INK, "ncols": min(len(handles), 3)}
    if handles:
        figure.legend(handles, labels, loc="outside lower center", **look)


def hover(artist: Artist, text: str, to: str = "") -> None:
    """Says what a page shows while the pointer is on the artist; `to`: the id on the page that a click leads to.

    It travels as the artist's id in the SVG file (`svg.py` reads it there); in PNG files it is lost.
    """
    artist.set_gid(json.dumps({"title": harmless(text), "to": to}))
