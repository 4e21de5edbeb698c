"""The grammar of the protocol: which text is a tag, and what an episode can be malformed by.

An agent pool of capacity c is one organizer and c - 1 workers. They speak in plain text (paper, section 1):

    <FORK-i>sub-query</FORK-i>   organizer: sub-query i goes to a worker, which starts at the closing tag
    <JOIN-i>                     organizer: wait for worker i; its returned text and `</JOIN-i>` are inserted
    <ANSWER>answer</ANSWER>      organizer: the episode ends at the closing tag
    <RETURN>takeaways</RETURN>   worker: the trace ends at the closing tag

Which of them is legal where stands in `protocol/rules.py`. What else the paper leaves open is decided here, once, for
the interpreter, the engine and the demonstrations.

| case | decision |
|---|---|
| what is a tag | a complete literal, recognised at its `>`; all else (`<FORK-`, `< ANSWER>`, `<fork-1>`) is text |
| ids | any count of ASCII digits; `0`, `01`, ids above `max_forks` are tags with an id out of range, reported as 0 |
| an id is used | from `<FORK-i>` on, and so is a worker: FORK_TWICE and POOL_FULL come at the opening tag |
| a worker is active | from `<FORK-i>` to `<JOIN-i>`, not to its return: what is legal never depends on timing |
| capacity 1 | every Fork is POOL_FULL |
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
UNNUMBERED = (Tag.ANSWER, Tag.RETURN)


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
    return numbered + [tag_literal(Tag(t + end)) for t in UNNUMBERED for end in (0, 1)]


TAG = re.compile(r"<(/?)(?:(FORK|JOIN)-([0-9]+)|(ANSWER|RETURN))>")


def is_tag(text: str) -> bool:
    """Whether a text is one tag and nothing else, of whatever id."""
    return TAG.fullmatch(text) is not None
