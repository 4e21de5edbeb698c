"""A file of demonstrations, one a line as `Script.to_json` has it: read, and checked by the protocol before it is used.

    {"problem": {..}, "organizer": ["<FORK-1>", " 5 8", "</FORK-1>", " Meanwhile ..", "<JOIN-1>", "<ANSWER>", "3",
     "</ANSWER>"], "work": [3, 6], "workers": {"1": " 8 - 5 .. <RETURN> 3</RETURN>"}, "returns": {"1": " 3"}}

What an organizer says is in pieces: each tag one, each sub-query one, other text as it likes. Nothing of what a Join
inserts stands there. `work` has the places of the pieces that don't organize, which may be imitated beside RL.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from asyncthink_jax.protocol.grammar import Grammar, Tag, tag_literal
from asyncthink_jax.protocol.parser import Parser
from asyncthink_jax.shown import harmless
from asyncthink_jax.tasks.task import Problem, Script
from asyncthink_jax.untrusted.files import check_head, parse_json


def read(
    path: str | os.PathLike[str], problem: Callable[[Mapping[str, Any]], Problem], grammar: Grammar
) -> list[Script]:
    """The demonstrations of a file that can be used with the pool of `grammar`; blank lines are skipped.

    A pool of one takes those without workers and leaves out the others.

    Args:
        path: a local file, or gs://..
        problem: `Task.from_json`.
        grammar: the pool's capacity, and the ids that it knows.

    Raises:
        ValueError: a line that is none, or that breaks the protocol; its number is in the message. No line is left.
        FileNotFoundError: there is no such file.
    """
    name = os.fspath(path)
    try:
        data = epath.Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"data.demonstrations: there is no file {name}") from error
    except OSError as error:
        raise FileNotFoundError(f"data.demonstrations: {name} can't be read: {error.strerror or error}") from error
    if data:
        try:
            check_head(name, data[:100])
        except ValueError as error:
            raise ValueError(f"data.demonstrations: {error}") from None
    scripts = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            script = Script.from_json(parse_json(line), problem)
            if grammar.capacity > 1 or not script.workers:
                scripts.append(checked(script, grammar))
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            missing = "there is no field " if isinstance(error, KeyError) else ""
            reason = harmless(" ".join(str(error).split()), 500)
            raise ValueError(f"data.demonstrations: {name}, line {number}: {missing}{reason}") from error
    if not scripts:
        what = "demonstration" if grammar.capacity > 1 else "demonstration without workers, as one agent needs them"
        raise ValueError(f"data.demonstrations: {name} has no {what}")
    return scripts


def checked(script: Script, grammar: Grammar) -> Script:
    """The script, its workers in the order of their forks. Raises ValueError if it breaks the protocol or its form."""
    forked = _organizer(script.organizer, grammar)
    for name, texts in (("workers", script.workers), ("returns", script.returns)):
        if sorted(texts) != sorted(forked):
            raise ValueError(f"{name} are those of {sorted(texts)}, the organizer forks {sorted(forked)}")
    for fork_id, text in script.workers.items():
        _worker(fork_id, text, script.returns[fork_id], grammar)
    if not script.work <= set(range(len(script.organizer))):
        raise ValueError(f"work {sorted(script.work)} names a place beyond the organizer's {len(script.organizer)}")
    return dataclasses.replace(script, workers={fork_id: script.workers[fork_id] for fork_id in forked})


def _organizer(pieces: tuple[str, ...], grammar: Grammar) -> list[int]:
    """The ids that an organizer forks, in this order."""
    parser = Parser("organizer", grammar)
    forked: list[int] = []
    texts = 0  # pieces of text since the last tag
    for place, piece in enumerate(pieces):
        if parser.done:
            raise ValueError(f"piece {place} of the organizer, {piece!r}, stands behind its answer")
        actions = parser.feed(piece)
        if parser.error:
            raise ValueError(f"piece {place} of the organizer, {piece!r}: {parser.error.name.lower()}")
        if actions and piece != tag_literal(actions[0].tag, actions[0].id):
            raise ValueError(f"piece {place} of the organizer, {piece!r}, is not one tag alone")
        if actions and actions[0].tag == Tag.FORK:
            forked.append(actions[0].id)
        elif actions and actions[0].tag == Tag.END_FORK and texts != 1:
            raise ValueError(f"piece {place} of the organizer, {piece!r}, needs its sub-query as one piece before it")
        elif actions and actions[0].tag == Tag.JOIN:
            parser.interrupt()
        texts = 0 if actions else texts + 1
    if not parser.done:
        raise ValueError("the organizer ends without an answer")
    return forked


def _worker(fork_id: int, text: str, returned: str, grammar: Grammar) -> None:
    parser = Parser("worker", grammar)
    actions = parser.feed(text)
    if parser.error:
        raise ValueError(f"worker {fork_id}: {parser.error.name.lower()}")
    if not parser.done or actions[-1].end != len(text):
        raise ValueError(f"the text of worker {fork_id} does not end with its </RETURN>")
    if returned != text[actions[0].end : actions[1].start]:
        raise ValueError(f"returns[{fork_id}] is not what stands in the <RETURN> of worker {fork_id}")
