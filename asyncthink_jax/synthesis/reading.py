"""What another model wrote, read: sections under headings, the fragments of step 1, the traces of step 2.

An answer is plain text in sections, each under a line of its own like `[worker 1]`. Plain text, and not JSON, since
thoughts are full of quotes, backslashes and line breaks, which models forget to escape.

In the section of the organizer the text that a Join inserts is written out, because a model goes on better from what it
can see. It is taken out again here: a demonstration has what the roles write (`tasks/task.py:Script`). White space
around tags is layout, not thinking: what stands before a tag is dropped, and what follows becomes at most one space.
"""

from __future__ import annotations

import dataclasses
import re

from asyncthink_jax.protocol.grammar import Action, Grammar, Parser, Tag, tag_literal

_HEADING = re.compile(
    r"^[ \t#*]*\[(problem|thinking|fragments|sequence|organizer|worker [0-9]{1,4})\][ \t*:]*$",
    re.MULTILINE | re.IGNORECASE,
)
_ITEM = re.compile(r"\s*(?:[0-9]+[.)]|[-*])\s+(.*)")
_JOINED = re.compile(r"<JOIN-([0-9]+)>(.*?)</JOIN-\1>", re.DOTALL)


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


def sections(text: str) -> dict[str, str]:
    """The sections by their headings in lower case. Text before the first one is left out.

    Raises Dropped if a heading stands there twice.
    """
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):  # the whole answer in a fence
        text = text[3:-3]
    parts = _HEADING.split(text)
    found: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        name = name.lower()
        if name in found:
            raise Dropped("unreadable", f"the section [{name}] stands there twice")
        found[name] = body.strip("\r\n").rstrip()
    return found


def read_fragments(text: str) -> list[str]:
    """The fragments of an answer to the first question. Raises Dropped if there is none."""
    body = sections(text).get("fragments")
    if body is None:
        raise Dropped("unreadable", "no section [fragments]")
    found: list[str] = []
    for line in body.splitlines():
        if match := _ITEM.fullmatch(line):
            found.append(match[1].strip())
        elif found:  # an item goes on
            found[-1] = f"{found[-1]} {line.strip()}".strip()
    if not all(found):
        raise Dropped("unreadable", "an empty fragment")
    if not found:
        raise Dropped("no_fragments", "nothing in the problem that can be thought about by itself")
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

    def taken_out(match: re.Match[str]) -> str:
        digits, joined = match.groups()
        if digits in by_digits and joined.split() != by_digits[digits].split():
            raise Dropped("joined_text", f"what <JOIN-{digits}> inserts is not what the worker returned")
        return f"<JOIN-{digits}>"

    return _JOINED.sub(taken_out, text)


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
