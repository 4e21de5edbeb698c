"""The rules of the protocol: which tag is legal, for whom, inside what, for which id.

`RULES` is the one place where this is written down. `VERDICT` is the same as an array, in which the text parser
(`protocol/parser.py`), the engine on the device (`rollout/step.py`) and constrained decoding (`rollout/constrain.py`)
look a tag up; the interpreter and the demonstrations go through the parser. The table in the docs is made of it.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyncthink_jax.protocol.grammar import FormatError, Tag

ROLES = ("organizer", "worker")  # as the verdict numbers them
_ORGANIZER, _WORKER = range(2)


class Inside(enum.IntEnum):
    """What stands open where a tag is written."""

    TEXT = 0  # nothing
    FORK = 1
    ANSWER = 2
    RETURN = 3


class IdState(enum.IntEnum):
    """What has happened to the id of a Fork or Join tag in its episode."""

    OUT_OF_RANGE = 0
    FREE = 1  # not forked, and the pool has a worker for it
    POOL_FULL = 2  # not forked, and c - 1 workers are active
    ACTIVE = 3  # forked, not joined
    JOINED = 4
    OPEN = 5  # the id of the Fork that stands open


@dataclasses.dataclass(frozen=True)
class Rule:
    """A line of the table. Of the lines that fit a tag the first decides; an empty tuple fits everything.

    Attributes:
      role: 0 = organizer, 1 = worker.
      inside: what stands open.
      tags: the tag that is written.
      ids: the state of its id.
      verdict: NONE = legal.
    """

    role: int
    inside: tuple[Inside, ...]
    tags: tuple[Tag, ...]
    ids: tuple[IdState, ...]
    verdict: FormatError


_TEXT = (Inside.TEXT,)
RULES = (
    Rule(_ORGANIZER, (Inside.FORK,), (Tag.END_FORK,), (IdState.OPEN,), FormatError.NONE),
    Rule(_ORGANIZER, (Inside.ANSWER,), (Tag.END_ANSWER,), (), FormatError.NONE),
    Rule(_ORGANIZER, (Inside.FORK, Inside.ANSWER), (), (), FormatError.NESTED_TAG),
    Rule(_ORGANIZER, _TEXT, (Tag.RETURN, Tag.END_RETURN), (), FormatError.WRONG_ROLE),
    Rule(_ORGANIZER, _TEXT, (Tag.END_FORK, Tag.END_JOIN, Tag.END_ANSWER), (), FormatError.STRAY_TAG),
    Rule(_ORGANIZER, _TEXT, (Tag.ANSWER,), (), FormatError.NONE),
    Rule(_ORGANIZER, _TEXT, (Tag.FORK, Tag.JOIN), (IdState.OUT_OF_RANGE,), FormatError.ID_OUT_OF_RANGE),
    Rule(_ORGANIZER, _TEXT, (Tag.FORK,), (IdState.FREE,), FormatError.NONE),
    Rule(_ORGANIZER, _TEXT, (Tag.FORK,), (IdState.POOL_FULL,), FormatError.POOL_FULL),
    Rule(_ORGANIZER, _TEXT, (Tag.FORK,), (), FormatError.FORK_TWICE),
    Rule(_ORGANIZER, _TEXT, (Tag.JOIN,), (IdState.ACTIVE,), FormatError.NONE),
    Rule(_ORGANIZER, _TEXT, (Tag.JOIN,), (IdState.JOINED,), FormatError.JOIN_TWICE),
    Rule(_ORGANIZER, _TEXT, (Tag.JOIN,), (), FormatError.JOIN_UNKNOWN),
    Rule(_WORKER, (Inside.RETURN,), (Tag.END_RETURN,), (), FormatError.NONE),
    Rule(_WORKER, (Inside.RETURN,), (), (), FormatError.NESTED_TAG),
    Rule(_WORKER, _TEXT, (Tag.RETURN,), (), FormatError.NONE),
    Rule(_WORKER, _TEXT, (Tag.END_RETURN,), (), FormatError.STRAY_TAG),
    Rule(_WORKER, _TEXT, (), (), FormatError.WRONG_ROLE),
)


def _verdicts() -> NDArray[np.int32]:
    table = np.zeros((len(ROLES), len(Inside), len(Tag), len(IdState)), np.int32)
    for rule in reversed(RULES):
        tags = rule.tags or tuple(Tag)
        places = np.ix_([rule.role], rule.inside, tags, rule.ids or tuple(IdState))
        table[places] = rule.verdict
    table[:, :, Tag.NONE] = FormatError.NONE
    return table


VERDICT = _verdicts()  # int32[role, Inside, Tag, IdState]: a FormatError, NONE where the tag is legal

# int32[Tag]: what a trace is inside of after a legal tag. A Join opens nothing.
INSIDE_AFTER = np.array([Inside[tag.name] if tag.name in Inside.__members__ else Inside.TEXT for tag in Tag], np.int32)


def id_state(xp: Any, in_range: Any, is_open: Any, used: Any, joined: Any, has_room: Any) -> Any:
    """The IdState of ids, of NumPy or JAX arrays (`xp`) of booleans that broadcast.

    Args:
      in_range: the id is one of 1..max_forks.
      is_open: it is the id of the Fork that stands open.
      used: `<FORK-id>` was legal. joined: `<JOIN-id>` was.
      has_room: fewer than c - 1 workers are active.
    """
    unused = xp.where(has_room, IdState.FREE, IdState.POOL_FULL)
    forked = xp.where(joined, IdState.JOINED, xp.where(is_open, IdState.OPEN, IdState.ACTIVE))
    return xp.where(in_range, xp.where(used, forked, unused), IdState.OUT_OF_RANGE)


def decision_table() -> str:
    """The rules as a Markdown table; the first line that fits decides."""

    def cell(members: tuple[enum.IntEnum, ...]) -> str:
        return ", ".join(f"`{member.name}`" for member in members) or "any"

    lines = ["| role | inside | tag | state of its id | verdict |", "|---|---|---|---|---|"]
    for rule in RULES:
        verdict = f"`{rule.verdict.name}`" if rule.verdict else "legal"
        cells = (ROLES[rule.role], cell(rule.inside), cell(rule.tags), cell(rule.ids), verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
