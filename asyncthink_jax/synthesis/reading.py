"""What another model wrote, read: sections under headings, the fragments of step 1, the traces of step 2.

An answer is plain text in sections, each under a line of its own like `[worker 1]`. Plain text, and not JSON, since
thoughts are full of quotes, backslashes and line breaks, which models forget to escape.

In the section of the organizer the text that a Join inserts is written out, because a model goes on better from what it
can see. It is taken out again here: a demonstration has what the roles write (`tasks/task.py:Script`). White space
around tags is layout, not thinking: what stands before a tag is dropped, and what follows becomes at most one space.

Around the sections there may be more: reasoning before them, in a <think> block or what is left of one, and a fence,
with words before and behind it. All of that is left out. Answers are hostile: reading takes linear time.
"""

from __future__ import annotations

import bisect
import dataclasses
import re

from asyncthink_jax.protocol.grammar import Grammar, Tag, tag_literal
from asyncthink_jax.protocol.parser import Action, Parser

_HEADING = re.compile(
    r"^[ \t#*]*\[ *(problem|thinking|fragments|sequence|organizer|worker [0-9]{1,4}) *\][ \t*:]*$",
    re.MULTILINE | re.IGNORECASE,
)
# How models mark reasoning that is no part of the answer; [thinking] is a section of ours.
_THINK = re.compile(r"<(/?)(?:[a-z]+:)?(think|thinking|thoughts?|reasoning)>|\[(/?)THINK\]", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})([^`\n]*)$", re.MULTILINE)  # [1]: a language, which an opening one may name
_ITEM = re.compile(r"\s*(?:\*\*[0-9]+[.):]\*\*|\(?[0-9]+[.):]+|[-*\u2022\u2013])\s+(.*)")
_END = re.compile(
    r"\s*(?:([-*_=])(?:\s*\1){2,}|\[/?end\]|<[|\uff5c][^<>\s]{1,60}[|\uff5c]>)\s*"
)  # no text: a rule, a mark
_JOIN = re.compile(r"<JOIN-([0-9]+)>")
_JOINED = re.compile(r"</JOIN-[0-9]+>")
MAX_FRAGMENTS = 100


class Dropped(Exception):
    """An answer that gives no demonstration: `reason`, a word that is counted, and `detail`, what is wrong where."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclasses.dataclass(frozen=True)
class Traces:
    """What the roles wrote, well-formed in the pool; the fields are those of `tasks/task.py:Script`.

    `actions` are the organizer's tags, as its parser read them.
    """

    organizer: tuple[str, ...]
    work: frozenset[int]
    workers: dict[int, str]
    returns: dict[int, str]
    actions: list[Action]


def without_reasoning(text: str) -> str:
    """The text behind the reasoning at its start: <think> blocks, or all up to a </think> that was never opened.

    A block that is never closed goes on to the end.
    """
    start, is_open = 0, False
    for mark in _THINK.finditer(text):
        if mark[1] or mark[3]:
            start, is_open = mark.end(), False
        elif not is_open:
            if text[start : mark.start()].strip():
                break  # within the answer
            is_open = True
    return "" if is_open else text[start:].lstrip()


def sections(text: str) -> dict[str, str]:
    """The sections by their headings in lower case. Text before the first one is left out.

    A section whose heading stands in a fence ends with it. Raises Dropped if a heading stands there twice.
    """
    parts = _HEADING.split(without_reasoning(text.replace("\r\n", "\n").removeprefix("\ufeff")))
    found: dict[str, str] = {}
    _, is_fenced = _to_fence(parts[0], False)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        name = name.lower()
        if name in found:
            raise Dropped("unreadable", f"the section [{name}] stands there twice")
        body, is_fenced = _to_fence(body, is_fenced)
        found[name] = body.strip("\r\n").rstrip()
    return found


def _to_fence(text: str, is_fenced: bool) -> tuple[str, bool]:
    """The text up to the end of the fence that it begins in, if it does; whether a fence is open behind all of it."""
    depth, end = int(is_fenced), len(text)
    for fence in _FENCE.finditer(text):
        depth += 1 if depth == 0 or fence[1].strip() else -1  # one that names a language opens
        if is_fenced and depth == 0:
            end, is_fenced = fence.start(), False
    return text[:end], depth > 0


def read_fragments(text: str) -> list[str]:
    """The fragments of an answer to the first question. Raises Dropped if there is none."""
    body = sections(text).get("fragments")
    if body is None:
        raise Dropped("unreadable", "no section [fragments]")
    items: list[list[str]] = []  # the lines of each
    ended = False  # whether a blank line has come since the last line of an item
    for line in body.splitlines():
        if _FENCE.fullmatch(line):
            if items:
                break  # what follows is no part of it
        elif _END.fullmatch(line):
            ended = True
        elif match := _ITEM.fullmatch(line):
            items.append([match[1].strip()])
            ended = False
        elif not line.strip():
            ended = True
        elif items and not (ended and not line[0].isspace()):  # an item goes on
            items[-1].append(line.strip())
    found = [" ".join(lines).strip() for lines in items]
    if not all(found):
        raise Dropped("unreadable", "an empty fragment")
    if not found:
        raise Dropped("no_fragments", "nothing in the problem that can be thought about by itself")
    if len(found) > MAX_FRAGMENTS:
        raise Dropped("unreadable", f"{len(found):,} fragments; at most {MAX_FRAGMENTS} are asked about")
    return found


def read_traces(text: str, grammar: Grammar) -> Traces:
    """The traces of an answer to the second question. Raises Dropped, see `judge.py:REASONS`."""
    found = sections(text)
    if "organizer" not in found:
        raise Dropped("unreadable", "no section [organizer]")
    workers: dict[int, str] = {}
    returns: dict[int, str] = {}
    for name, body in found.items():
        if name.startswith("worker"):
            number = int(name.split()[1])
            workers[number], returns[number] = _read_worker(number, body, grammar)
    text = _without_joined(found["organizer"], returns)
    parser = Parser("organizer", grammar)
    actions = parser.feed(text)
    open_tag = f", {tag_literal(*parser.open)} is never closed" if parser.open else ""
    if error := parser.finish():
        raise Dropped(error.name.lower(), f"organizer, {_place(text, actions)}{open_tag}")
    forked = [action.id for action in actions if action.tag == Tag.FORK]
    if missing := [number for number in forked if number not in workers]:
        raise Dropped("missing_worker", f"no section [worker {missing[0]}], which is forked")
    if unforked := sorted(set(workers) - set(forked)):
        raise Dropped("unforked_worker", f"a section [worker {unforked[0]}], which is never forked")
    pieces, work = _pieces(text, actions)
    in_order = {number: workers[number] for number in forked}
    return Traces(pieces, work, in_order, {number: returns[number] for number in forked}, actions)


def _read_worker(number: int, body: str, grammar: Grammar) -> tuple[str, str]:
    """A worker's whole text, and what it returns."""
    parser = Parser("worker", grammar)
    actions = parser.feed(body)
    if error := parser.finish():
        raise Dropped(error.name.lower(), f"worker {number}, {_place(body, actions)}")
    if len(actions) < 2:
        raise Dropped("no_return", f"worker {number} has no <RETURN>..</RETURN>")
    opener, closer = actions
    takeaways = _without_layout(body[opener.end : closer.start])
    thoughts = _without_layout(body[: opener.start], at_start=True)
    return f"{thoughts}<RETURN>{takeaways}</RETURN>", takeaways


def _without_joined(text: str, returns: dict[int, str]) -> str:
    """The organizer's text without what its Joins insert, which must be what the workers returned."""
    by_digits = {str(number): takeaways for number, takeaways in returns.items()}
    closings: dict[str, list[int]] = {}
    for mark in _JOINED.finditer(text):
        closings.setdefault(mark[0], []).append(mark.start())
    kept: list[str] = []
    end = 0
    for mark in _JOIN.finditer(text):
        places = closings.get(f"</JOIN-{mark[1]}>", [])
        next_one = bisect.bisect_left(places, mark.end())
        if mark.start() < end or next_one == len(places):
            continue
        joined = text[mark.end() : places[next_one]]
        if mark[1] in by_digits and joined.split() != by_digits[mark[1]].split():
            raise Dropped("joined_text", f"what <JOIN-{mark[1]}> inserts is not what the worker returned")
        kept.append(text[end : mark.end()])
        end = places[next_one] + len(f"</JOIN-{mark[1]}>")
    return "".join(kept) + text[end:]


def _pieces(text: str, actions: list[Action]) -> tuple[tuple[str, ...], frozenset[int]]:
    """Tags and stretches of words in their order, and the places of own thinking and of the answer."""
    pieces: list[str] = []
    work: list[int] = []
    before, end = Tag.NONE, 0
    for action in actions:
        stretch = _without_layout(text[end : action.start], at_start=end == 0)
        if before == Tag.FORK and not stretch.strip():
            raise Dropped("empty_sub_query", f"FORK-{action.id} has nothing in it")
        if stretch.strip():
            if before != Tag.FORK:
                work.append(len(pieces))
            pieces.append(stretch)
        pieces.append(text[action.start : action.end])
        before, end = action.tag, action.end
    return tuple(pieces), frozenset(work)


def _without_layout(stretch: str, at_start: bool = False) -> str:
    words = stretch.strip()
    spaced = stretch[:1].isspace() and not (at_start and stretch[:1] in "\r\n")
    return f" {words}" if spaced and words else words


def _place(text: str, actions: list[Action]) -> str:
    """Where a trace went wrong, for the reader."""
    if not actions or not actions[-1].error:
        return "at the end"
    start, end = actions[-1].start, actions[-1].end
    return "at " + repr(text[max(0, start - 30) : end])
