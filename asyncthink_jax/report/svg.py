"""A figure as an SVG element of a page: in the page's colours and font, with text under the pointer, and no script."""

from __future__ import annotations

import io
import json
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from asyncthink_jax.report.style import COLORS
from asyncthink_jax.report.text import harmless

_NAMES = {pair[0]: name for name, pair in COLORS.items()}
# Characters that no XML may hold. `hover` and the figures make such text harmless; here it can't break the page either.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def inline(figure: Figure, name: str, label: str) -> str:
    """The `<svg>` element of a figure.

    Args:
      figure: what `hover` was told of its artists is shown under the pointer; those that lead somewhere are links,
        which a keyboard reaches too.
      name: of this figure on the page, by which its ids differ from those of all others.
      label: what the figure shows, for those who can't see it.
    """
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", facecolor="none")
    root = ElementTree.fromstring(_NO_XML.sub("\ufffd", written.getvalue()))
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): value for key, value in element.attrib.items()}
    _remove(root, {"metadata", "style"})  # the page has its own
    used = set(re.findall(r"#([^)\"\s]+)", " ".join(value for e in root.iter() for value in e.attrib.values())))
    for element in root.iter():
        _finish(element, name, used)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "group", "aria-label": harmless(label)}
    return ElementTree.tostring(root, encoding="unicode")


def _finish(element: ElementTree.Element, name: str, used: set[str]) -> None:
    told = element.attrib.pop("id", "")
    if told.startswith("{"):
        _show(element, **json.loads(told))
    elif told in used:
        element.set("id", f"{name}-{told}")
    for key, value in element.attrib.items():
        if key in ("href", "clip-path") and not told.startswith("{"):
            element.set(key, re.sub(r"#", f"#{name}-", value, count=1))
        elif key in ("style", "fill", "stroke"):
            element.set(key, re.sub(r"#[0-9a-f]{6}", _themed, value))


def _show(group: ElementTree.Element, title: str, to: str) -> None:
    if to:
        group.tag = "a"
        group.set("href", f"#{to}")
    shown = ElementTree.Element("title")
    shown.text = title
    group.insert(0, shown)


def _themed(found: re.Match[str]) -> str:
    name = _NAMES.get(found[0])
    return f"var(--{name})" if name else found[0]


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _remove(element: ElementTree.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _remove(child, tags)
