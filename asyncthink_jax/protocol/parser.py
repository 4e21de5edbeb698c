"""Reads one trace's own text: the definition of the protocol on text."""

from __future__ import annotations

import copy
import dataclasses
import re

import numpy as np

from asyncthink_jax.protocol.grammar import TAG, FormatError, Grammar, Role, Tag, tag_literals
from asyncthink_jax.protocol.rules import INSIDE_AFTER, ROLES, VERDICT, id_state

_NUMBERED_START = re.compile(r"</?(?:FORK|JOIN)-[0-9]*")
_STARTS = tuple(f"<{slash}{word}" for slash in ("", "/") for word in ("FORK-", "JOIN-", "ANSWER", "RETURN"))


@dataclasses.dataclass(frozen=True)
class Action:
    """One recognised tag, in the order of the text.

    Attributes:
      tag: which tag; a legal one acts as the docstring of `protocol/grammar.py` says.
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
        for match in TAG.finditer(text):
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
        endings = (TAG.fullmatch(tag) for tag in tag_literals(self.grammar.max_forks) if tag.startswith(after._pending))
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
        opener, open_id = self.open or (Tag.NONE, 0)
        state = id_state(
            np,
            in_range=tag_id > 0,
            is_open=opener == Tag.FORK and tag_id == open_id,
            used=tag_id in self.used,
            joined=tag_id in self.joined,
            has_room=len(self.used) - len(self.joined) < self.grammar.capacity - 1,
        )
        return FormatError(VERDICT[ROLES.index(self.role), INSIDE_AFTER[opener], tag, state])


def _may_become_tag(text: str) -> bool:
    return any(start.startswith(text) for start in _STARTS) or _NUMBERED_START.fullmatch(text) is not None
