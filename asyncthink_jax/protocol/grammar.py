"""The grammar of the protocol: which text is a tag, what a tag does, and what makes an episode malformed.

An agent pool of capacity c is one organizer and c - 1 workers. They speak in plain text (paper, section 1):

    <FORK-i>sub-query</FORK-i>   organizer: sub-query i goes to a worker, which starts at the closing tag
    <JOIN-i>                     organizer: wait for worker i; its returned text and `</JOIN-i>` are inserted
    <ANSWER>answer</ANSWER>      organizer: the episode ends at the closing tag
    <RETURN>takeaways</RETURN>   worker: the trace ends at the closing tag

What the paper leaves open is decided here, once, for the interpreter, the engine and the demonstrations.

| case | decision |
|---|---|
| what is a tag | a complete literal, recognised at its `>`; all else (`<FORK-`, `< ANSWER>`, `<fork-1>`) is text |
| ids | any count of ASCII digits; `0`, `01`, ids above `max_forks` are tags with an id out of range, reported as 0 |
| an id is used | from `<FORK-i>` on, and so is a worker: FORK_TWICE and POOL_FULL come at the opening tag |
| a worker is active | from `<FORK-i>` to `<JOIN-i>`, not to its return: what is legal never depends on timing |
| capacity 1 | every Fork is POOL_FULL |
| in a Fork or Answer | its own closer ends it, every other tag is NESTED_TAG (`</FORK-2>` in FORK-1 too) |
| organizer elsewhere | checked in this order: a Return tag is WRONG_ROLE; a closer is STRAY_TAG; ID_OUT_OF_RANGE; |
| | Fork: FORK_TWICE, POOL_FULL; Join: JOIN_UNKNOWN, JOIN_TWICE (an id is joined once) |
| worker | in its Return the closer ends the trace, every other tag is NESTED_TAG; |
| | elsewhere `<RETURN>` opens it, `</RETURN>` is STRAY_TAG, every other tag is WRONG_ROLE |
| inserted text | never parsed, and a tag can't continue across it; prompts are never parsed |
| a worker's error | ends that worker and makes the episode malformed, but the organizer goes on to its own end; |
| | a Join of that worker reads what stood in its Return before the offending tag |
| an organizer's error | ends the episode there |
| an episode's error | the organizer's, if any, else the worker's with the lowest (step, id) |
| no `</RETURN>` | (budget, full row, end-of-text) no error; a Join reads what stood in the Return, else nothing; |
| | an unfinished tag at the end is text |
| no `</ANSWER>` | (budget, full row, end-of-text) NO_ANSWER |
| unjoined at the end | no error; such a worker is stopped there, and an error it would have made later doesn't count |
| empty | a sub-query, a return and an answer may each be empty |
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import re
from typing import Literal

Role = Literal["organizer", "worker"]


class Tag(enum.IntEnum):
    """The tags, as the automaton's tables number them. A closer is its opener + 1."""

    NONE = 0
    FORK = 1
    END_FORK = 2
    JOIN = 3
    END_JOIN = 4
    ANSWER = 5
    END_ANSWER = 6
    RETURN = 7
    END_RETURN = 8


class FormatError(enum.IntEnum):
    """Why an episode is malformed; `name.lower()` is its name in files and reports."""

    NONE = 0
    FORK_TWICE = 1
    POOL_FULL = 2
    JOIN_UNKNOWN = 3
    JOIN_TWICE = 4
    NESTED_TAG = 5
    STRAY_TAG = 6
    WRONG_ROLE = 7
    ID_OUT_OF_RANGE = 8
    NO_ANSWER = 9


NUMBERED = (Tag.FORK, Tag.JOIN)  # the openers (and their closers) that carry an id
PLAIN = (Tag.ANSWER, Tag.RETURN)


@dataclasses.dataclass(frozen=True)
class Grammar:
    """The two numbers that the protocol depends on.

    Attributes:
      capacity: c, the agents of the pool, the organizer included (>= 1).
      max_forks: sub-query ids are 1..max_forks (>= 0), each usable once an episode.
    """

    capacity: int
    max_forks: int

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1 (the organizer), got {self.capacity}")
        if self.max_forks < 0:
            raise ValueError(f"max_forks must not be negative, got {self.max_forks}")


def tag_literal(tag: Tag, tag_id: int = 0) -> str:
    """The text of one tag; `tag_id` is read for Fork and Join tags only."""
    opener = Tag(tag - (tag + 1) % 2)
    slash = "/" if tag != opener else ""
    number = f"-{tag_id}" if opener in NUMBERED else ""
    return f"<{slash}{opener.name}{number}>"


def tag_literals(max_forks: int) -> list[str]:
    """Every legal tag as text, in a fixed order: a tokenizer's user-defined symbols."""
    numbered = [tag_literal(Tag(t + end), i) for i in range(1, max_forks + 1) for t in NUMBERED for end in (0, 1)]
    return numbered + [tag_literal(Tag(t + end)) for t in PLAIN for end in (0, 1)]


_TAG = re.compile(r"<(/?)(?:(FORK|JOIN)-([0-9]+)|(ANSWER|RETURN))>")


def is_tag(text: str) -> bool:
    """Whether a text is one tag and nothing else, of whatever id."""
    return _TAG.fullmatch(text) is not None


_NUMBERED_START = re.compile(r"</?(?:FORK|JOIN)-[0-9]*")
_STARTS = tuple(f"<{slash}{word}" for slash in ("", "/") for word in ("FORK-", "JOIN-", "ANSWER", "RETURN"))


@dataclasses.dataclass(frozen=True)
class Action:
    """One recognised tag, in the order of the text.

    Attributes:
      tag: which tag; a legal one acts as the module's docstring says.
      id: the sub-query's id for Fork and Join tags (0 = out of range), 0 for the others.
      start, end: the tag's characters are `text[start:end]` of all the text fed so far.
      error: NONE for a legal tag; an illegal one is the last action of its trace.
    """

    tag: Tag
    id: int
    start: int
    end: int
    error: FormatError = FormatError.NONE


class Parser:
    """Reads one trace's own text piece by piece, however it is cut, and says what it does.

    This is the definition of the protocol on text; it knows nothing of tokens, time or other traces.

    Attributes:
      error: the first format error, NONE so far if there is none.
      done: the trace has ended by an Answer, a Return or an error; what is fed afterwards is ignored.
      open: the Fork, Answer or Return that stands open, as (tag, id), or None.
      used: every id whose `<FORK-i>` was legal. joined: every id whose `<JOIN-i>` was.
    """

    def __init__(self, role: Role, grammar: Grammar):
        self.role = role
        self.grammar = grammar
        self.error = FormatError.NONE
        self.done = False
        self.open: tuple[Tag, int] | None = None
        self.used: set[int] = set()
        self.joined: set[int] = set()
        self._pending = ""  # the end of the text so far that may be the start of a tag
        self._fed = 0  # characters fed

    def feed(self, piece: str) -> list[Action]:
        """The tags that `piece` completes, in order; none after the trace is done."""
        if self.done:
            return []
        text = self._pending + piece
        origin = self._fed - len(self._pending)
        self._fed += len(piece)
        actions, after = [], 0
        for match in _TAG.finditer(text):
            if self.done:
                break
            actions.append(self._act(match, origin))
            after = match.end()
        # Only the last "<" can begin an unfinished tag: no tag has a second "<" in it.
        last = text.rfind("<", after)
        self._pending = text[last:] if last >= 0 and _may_become_tag(text[last:]) else ""
        return actions

    def interrupt(self) -> None:
        """Text that is not parsed (a Join's) stands here: an unfinished tag before it stays text."""
        self._pending = ""

    def finish(self) -> FormatError:
        """The trace ends here, by budget or end-of-text if it is not done: its error, NO_ANSWER included."""
        if not self.done and self.role == "organizer":
            self.error = FormatError.NO_ANSWER
        self.done = True
        return self.error

    def allows(self, piece: str) -> bool:
        """Whether constrained decoding may write `piece` next.

        It may if `piece` makes no format error, and the tag that it leaves in progress, if it does, can still become
        one that is legal there. Leaving a tag in progress for text (`<FORK-x`) is no error. Of what a piece says after
        the end of the trace, or after a Join, nothing comes.
        """
        after = copy.copy(self)
        after.used, after.joined = set(self.used), set(self.joined)
        actions = after.feed(piece)
        if after.error:
            return False
        if after.done or not after._pending or (actions and actions[-1].tag == Tag.JOIN):
            return True
        endings = (
            _TAG.fullmatch(tag) for tag in tag_literals(self.grammar.max_forks) if tag.startswith(after._pending)
        )
        return any(not after._check(*after._read(match)) for match in endings if match)

    def _act(self, match: re.Match[str], origin: int) -> Action:
        tag, tag_id = self._read(match)
        error = self._check(tag, tag_id)
        if error:
            self.error, self.done = error, True
        elif tag in (Tag.FORK, Tag.ANSWER, Tag.RETURN):
            self.open = (tag, tag_id)
            if tag == Tag.FORK:
                self.used.add(tag_id)
        elif tag == Tag.JOIN:
            self.joined.add(tag_id)
        else:
            self.open = None
            self.done = tag in (Tag.END_ANSWER, Tag.END_RETURN)
        return Action(tag, tag_id, origin + match.start(), origin + match.end(), error)

    def _read(self, match: re.Match[str]) -> tuple[Tag, int]:
        slash, numbered, digits, plain = match.groups()
        return Tag(Tag[numbered or plain] + bool(slash)), self._legal_id(digits) if numbered else 0

    def _legal_id(self, digits: str) -> int:
        # The length is compared first: int() refuses strings of more than 4,300 digits.
        legal = digits[0] != "0" and len(digits) <= len(str(self.grammar.max_forks))
        return int(digits) if legal and int(digits) <= self.grammar.max_forks else 0

    def _check(self, tag: Tag, tag_id: int) -> FormatError:
        if self.open is not None:
            opener, open_id = self.open
            return FormatError.NONE if (tag, tag_id) == (opener + 1, open_id) else FormatError.NESTED_TAG
        if self.role == "worker":
            if tag == Tag.RETURN:
                return FormatError.NONE
            return FormatError.STRAY_TAG if tag == Tag.END_RETURN else FormatError.WRONG_ROLE
        if tag in (Tag.RETURN, Tag.END_RETURN):
            return FormatError.WRONG_ROLE
        if tag in (Tag.END_FORK, Tag.END_JOIN, Tag.END_ANSWER):
            return FormatError.STRAY_TAG
        if tag == Tag.ANSWER:
            return FormatError.NONE
        if tag_id == 0:
            return FormatError.ID_OUT_OF_RANGE
        if tag == Tag.FORK:
            if tag_id in self.used:
                return FormatError.FORK_TWICE
            full = len(self.used) - len(self.joined) >= self.grammar.capacity - 1
            return FormatError.POOL_FULL if full else FormatError.NONE
        if tag_id not in self.used:
            return FormatError.JOIN_UNKNOWN
        return FormatError.JOIN_TWICE if tag_id in self.joined else FormatError.NONE


def _may_become_tag(text: str) -> bool:
    return any(start.startswith(text) for start in _STARTS) or _NUMBERED_START.fullmatch(text) is not None
