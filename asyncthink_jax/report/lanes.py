"""An episode on a terminal, while it is thought: a lane for each agent, who waits for whom, the critical path.

    organizer     ━━━━━━━━┯━━━━━━━┯━━━━━━━┯━━━━━━━━━━━━━━╌╌╌╌╌╌╌╌            waits for worker 1
                  <FORK-3> 7 9 2 20 = 11</FORK-3> 2 20 7 9 = 11 : + 22 7 9 - 18 7 9 2 #0<JOIN-1>

    worker 1              ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━            thinks
                  2 7 9 20 = 11
                  + 9 ! 2 + 9 7 77 20 31 9 - 7

Episodes come in the format of `episodes.jsonl`, finished or as far as they are. What a model has written is data:
control characters are made visible, and nothing in it is read as markup.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.text import Text

from asyncthink_jax.report.layout import Bar, Layout, layout, worker_texts
from asyncthink_jax.report.text import TAG, harmless, one_line

LABEL = 15  # cells of a lane's name
STATUS = 21  # cells of what its agent does
NARROW = 64  # cells of a terminal that has no room for bars beside names and status
BLOCK = 2048  # characters: text is wrapped from the start of one, so that its lines stand still while it grows

ORGANIZER = "blue"
WORKERS = ("cyan", "green", "yellow", "magenta", "bright_cyan", "bright_green", "bright_yellow", "bright_magenta")
FAINT = "bright_black"

ERRORS = {  # what somebody did whose trace made a format error, all but NO_ANSWER
    "fork_twice": "forked a worker whose number it had used",
    "pool_full": "forked a worker when none was free",
    "join_unknown": "joined a worker that it had not forked",
    "join_twice": "joined a worker a second time",
    "nested_tag": "wrote a tag inside of another",
    "stray_tag": "closed a tag that was not open",
    "wrong_role": "wrote a tag that belongs to the other role",
    "id_out_of_range": "wrote the number of a worker that cannot be",
}


# ------------------------------------------------------------------------------------------------------------ text


def _cut(text: str, cells: int) -> str:
    """The start of a line, with `…` where it is cut; takes at most `cells` cells."""
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(0, cells - 1)).rstrip() + "…" if cells > 0 else ""


# ----------------------------------------------------------------------------------------------------------- picture


def picture(episode: Mapping[str, Any], *, width: int, height: int = 40, note: str = "") -> RenderableType:
    """An episode as lanes.

    Args:
      episode: in the format of `episodes.jsonl`; its problem may have a "question".
      width, height: cells and lines of the terminal. Lanes get as many lines of text as fit.
      note: stands at the upper right.
    """
    plan = layout(episode)
    agents = _agents(episode, plan)
    # The question, the lanes with a line between them, the critical path, and the line of the cursor.
    each = (height - 5) // max(1, len(agents)) - 1
    texts = max(0, min(3, each - 1))
    drawn: list[RenderableType] = [_title(episode, width, note), Text()]
    columns = width - LABEL - STATUS - 1
    scale = _scale(plan.steps, columns)
    joins = _joins(episode["traces"][0])
    links = [
        link for link in plan.links if (link.kind, link.fork_id) != ("join", joins)
    ]  # not joined before it goes on
    plan = dataclasses.replace(plan, links=links)
    for place, agent in enumerate(agents):
        if place and texts:
            drawn.append(Text())
        bar = _bar(plan, place, scale, columns) if width >= NARROW else Text()
        drawn.append(_row(agent.name, agent.color, bar, agent.status, columns if width >= NARROW else 0, width))
        drawn += agent.lines(texts, width)
    drawn.append(Text())
    if width >= NARROW:
        drawn.append(_row("critical path", "bold", _path(plan, scale, columns), f"{plan.steps} steps", columns, width))
    else:
        drawn.append(_row("critical path", "bold", Text(), f"{plan.steps} steps", 0, width))
    return Group(*drawn)


def _title(episode: Mapping[str, Any], width: int, note: str) -> Text:
    note = _cut(note, width - 2)
    question = _cut(one_line(str(episode["problem"].get("question", ""))), width - cell_len(note) - 3)
    space = width - 1 - cell_len(question) - cell_len(note)
    return _line(Text.assemble((question, "bold"), " " * max(1, space), (note, FAINT)))


def _row(name: str, style: str, bar: Text, status: str, columns: int, width: int) -> Text:
    bar.pad_right(max(0, columns - bar.cell_len))
    name = set_cell_size(name, LABEL)
    return _line(Text.assemble((name, style), bar, " ", _cut(status, width - LABEL - columns - 1)))


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "crop"
    return text


class _Agent:
    """What a lane shows of the trace that has it now."""

    def __init__(self, name: str, color: str, status: str, about: str = "", trace: Mapping[str, Any] | None = None):
        self.name, self.color, self.status, self.about, self.trace = name, color, status, about, trace

    def lines(self, count: int, width: int) -> list[Text]:
        """`count` lines: what it thinks about, if it was told, and the end of what it has written."""
        room = max(8, width - LABEL - 1)
        lines = []
        if count > 1 and self.trace is not None and self.trace["role"] == "worker":
            lines.append(Text(_cut(self.about, room), "bold"))
        written = _written(self.trace["spans"], count * room) if self.trace else Text()
        wrapped = list(written.wrap(Console(width=room), room, overflow="fold")) if written.plain else []
        for line in wrapped[-(count - len(lines)) :] if count > len(lines) else []:
            line.rstrip()
            lines.append(line)
        lines += [Text()] * (count - len(lines))
        return [_line(Text.assemble(" " * LABEL, line)) for line in lines]


def _written(spans: list[list[str]], cells: int) -> Text:
    """The last `cells` cells of a trace, or more: tags in bold, joined text slanted."""
    block = max(BLOCK, cells)
    length = sum(len(text) for _, text in spans)
    skip = max(0, length // block - 1) * block
    written = Text()
    skip = skip or len(spans[0][1]) - len(spans[0][1].lstrip()) if spans else 0
    for kind, text in spans:
        if skip < len(text):
            begin = len(written)
            written.append(one_line(text[skip:]), "italic" if kind == "joined" else FAINT)
            for tag in TAG.finditer(written.plain, begin):
                written.stylize("bold", *tag.span())
        skip = max(0, skip - len(text))
    return written


def _agents(episode: Mapping[str, Any], plan: Layout) -> list[_Agent]:
    organizers = [trace for trace in episode["traces"] if trace["role"] == "organizer"]
    if len(organizers) > 1:
        return [
            _Agent(f"trace {place + 1}", _color(place + 1), _organizer_status(trace, {}), trace=trace)
            for place, trace in enumerate(organizers)
        ]
    workers = {trace["fork_id"]: trace for trace in episode["traces"] if trace["role"] == "worker"}
    organizer = organizers[0]
    agents = [_Agent("organizer", ORGANIZER, _organizer_status(organizer, workers), trace=organizer)]
    joined = {event["id"] for event in organizer["events"] if event["action"] == "join"}
    texts = worker_texts(episode)
    for lane in range(1, len(plan.lanes)):
        ids = [link.fork_id for link in plan.links if link.kind == "fork" and link.lane == lane]
        if not ids:
            agents.append(_Agent("worker", FAINT, "free"))
            continue
        worker = workers[ids[-1]]
        status = _worker_status(worker, ids[-1] in joined, organizer["end"] == "stopped")
        about = one_line(texts[ids[-1]][0])
        agents.append(_Agent(f"worker {ids[-1]}", _color(ids[-1]), status, about, worker))
    return agents


def _color(number: int) -> str:
    return WORKERS[(number - 1) % len(WORKERS)]


def _organizer_status(trace: Mapping[str, Any], workers: Mapping[int, Mapping[str, Any]]) -> str:
    ends = {"answer": "has answered", "budget": "out of tokens", "format_error": "format error"}
    if trace["end"] in ends:
        return ends[trace["end"]]
    if not trace["decoded_tokens"]:
        return "reads"
    joins = _joins(trace)
    if joins is not None:
        return f"waits for worker {joins}" if workers[joins]["end"] == "stopped" else f"reads of worker {joins}"
    tags = TAG.findall("".join(text for kind, text in trace["spans"] if kind == "decoded"))
    opened = re.fullmatch(r"<(FORK|ANSWER)(?:-(\d+))?>", tags[-1]) if tags else None
    if opened is None:
        return "thinks"
    return f"forks worker {opened[2]}" if opened[2] else "answers"


def _joins(organizer: Mapping[str, Any]) -> int | None:
    """The worker of the Join after which a running organizer has not decoded anything yet."""
    last = organizer["events"][-1] if organizer["events"] and organizer["end"] == "stopped" else None
    return last["id"] if last and last["action"] == "join" and last["at"] == organizer["decoded_tokens"] else None


def _worker_status(trace: Mapping[str, Any], is_joined: bool, is_under_way: bool) -> str:
    if trace["end"] == "stopped":
        if not is_under_way:
            return "stopped"
        if not trace["decoded_tokens"]:
            return "reads"
        return "returns" if "<RETURN>" in "".join(text for _, text in trace["spans"]) else "thinks"
    ends = {"return": "has returned", "budget": "out of tokens", "format_error": "format error"}
    return "joined" if is_joined and trace["end"] == "return" else ends[trace["end"]]


# -------------------------------------------------------------------------------------------------------------- bars


def _scale(steps: int, columns: int) -> int:
    """Steps a column: doubled where they no longer fit, so that bars stand still in between."""
    scale = 1
    while steps > scale * columns > 0:
        scale *= 2
    return scale


def _bar(plan: Layout, lane: int, scale: int, columns: int) -> Text:
    cells = [(" ", "")] * columns
    several = not plan.links and len(plan.lanes) > 1

    def fill(bar: Bar, character: str, style: str) -> None:
        for column in range(bar.start // scale, min(columns, -(-bar.end // scale))):
            cells[column] = (character, style)

    # One of no length would fill a column that it shares with other steps.
    mine = [bar for bar in plan.bars if bar.lane == lane and bar.end > bar.start]
    for bar in mine:
        if bar.kind == "returned":
            fill(bar, "─", FAINT)
        elif bar.kind == "waiting":
            fill(bar, "╌", FAINT)
    for bar in mine:
        if bar.kind == "organizer":
            fill(bar, "━", _color(lane + 1) if several else ORGANIZER)
        elif bar.kind == "worker":
            fill(bar, "━", _color(bar.fork_id or 1))
        if bar.failed and bar.end > 0:
            cells[min(columns - 1, (bar.end - 1) // scale)] = ("✗", "red")
    for link in plan.links:
        column = (link.step - 1) // scale
        if lane == 0 and 0 <= column < columns:
            cells[column] = ("┯" if link.kind == "fork" else "┷", _color(link.fork_id))
    return _joined(cells)


def _path(plan: Layout, scale: int, columns: int) -> Text:
    """The agents on the critical path, one after the other."""
    cells = [(" ", "")] * columns
    several = not plan.links and len(plan.lanes) > 1
    for lane, start, end in plan.critical:
        worker = next((b.fork_id for b in plan.bars if b.kind == "worker" and (b.lane, b.start) == (lane, start)), None)
        color = _color(lane + 1) if several else _color(worker) if lane and worker else ORGANIZER
        for column in range(start // scale, min(columns, -(-end // scale))):
            cells[column] = ("━", color)
    return _joined(cells)


def _joined(cells: list[tuple[str, str]]) -> Text:
    runs = groupby(cells, key=lambda cell: cell[1])
    return Text.assemble(*(("".join(character for character, _ in run), style) for style, run in runs))


# ------------------------------------------------------------------------------------------------------------- words


def summary(episode: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know of a finished episode, as (name, text): one line each."""
    decoded = sum(trace["decoded_tokens"] for trace in episode["traces"])
    answer = "none" if episode["answer"] is None else harmless(clean_lines(episode["answer"]))
    return [
        ("answer", answer),
        ("critical path", f"{episode['critical_path']} steps"),
        ("tokens", f"{decoded}, of all agents"),
        ("concurrency", f"{episode['concurrency']:.2f} of {episode['agents']} agents"),
        ("ended", how_it_ended(episode)),
    ]


def clean_lines(text: str) -> str:
    """An answer without the white space around it and at the ends of its lines."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def how_it_ended(episode: Mapping[str, Any]) -> str:
    """In words: with an answer, or what the format error was and who made it."""
    error = episode["format_error"]
    if error is None:
        return "with an answer"
    if error == "no_answer":
        return "without an answer: the tokens ran out, or the text was ended"
    wrong = next((trace for trace in episode["traces"] if trace["end"] == "format_error"), episode["traces"][0])
    who = "an organizer" if wrong["fork_id"] is None else f"worker {wrong['fork_id']}"
    return f"with a format error: {who} {ERRORS[error]} ({error})"


def transcript(episode: Mapping[str, Any]) -> str:
    """A finished episode as plain text: what each agent wrote, workers indented below the Fork that started them."""
    organizers = [trace for trace in episode["traces"] if trace["role"] == "organizer"]
    workers = {trace["fork_id"]: trace for trace in episode["traces"] if trace["role"] == "worker"}
    lines = []
    for place, organizer in enumerate(organizers):
        name = "organizer" if len(organizers) == 1 else f"trace {place + 1}"
        lines += [f"{name}, {_steps(organizer)}", *_paragraphs(organizer, workers, "  ")]
    return "\n".join(lines)


def _steps(trace: Mapping[str, Any]) -> str:
    return f"steps {trace['start_step'] + 1} to {trace['end_step']}" if trace["decoded_tokens"] else "no step"


def _paragraphs(trace: Mapping[str, Any], workers: Mapping[int, Mapping[str, Any]], indent: str) -> list[str]:
    text = "".join(text for _, text in trace["spans"])
    # A Fork, a Join, a Return and the Answer are a paragraph each, and so is what stands between them.
    pieces = re.split(r"(<(FORK-\d+|JOIN-\d+|RETURN|ANSWER)>.*?</\2>)", text, flags=re.DOTALL)
    lines = []
    for piece, inside in _pairs(pieces):
        for part in (piece, inside):
            lines += [indent + harmless(line.rstrip()) for line in part.strip().splitlines() if line.strip()]
        fork = re.match(r"<FORK-(\d+)>", inside)
        worker = workers.get(int(fork[1])) if fork else None
        if worker is not None and trace["role"] == "organizer":
            lines.append(f"{indent}  worker {worker['fork_id']}, {_steps(worker)}")
            lines += _paragraphs(worker, {}, indent + "    ")
    return lines


def _pairs(pieces: list[str]) -> list[tuple[str, str]]:
    """(text, the tag behind it with what it holds) of what `re.split` gives with two groups."""
    return [(pieces[n], pieces[n + 1] if n + 1 < len(pieces) else "") for n in range(0, len(pieces), 3)]
