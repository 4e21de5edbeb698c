"""Episodes as bytes, which one process sends to the others: JSON for what is small, arrays for the tokens.

A message is one line of JSON, then the columns of COLUMNS, each with the traces of all episodes one after another. It
can say nothing but episodes: reading one calls no code that it names, and allocates no more than its own size.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from asyncthink_jax.protocol.episode import Attempt, End, Episode, Event, Trace
from asyncthink_jax.protocol.grammar import Role

# The arrays of a trace, with their types in memory.
COLUMNS = {
    "prompt": np.dtype("<i4"),
    "tokens": np.dtype("<i4"),
    "steps": np.dtype("<i4"),
    "logprobs": np.dtype("<f4"),
    "sampled": np.dtype("?"),
}
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")  # of an episode
_NONE = type(None)
# What JSON holds of an episode, of a trace and of an event: the types that a value may have.
_EPISODE: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "problem": (dict,),
    "paradigm": (str,),
    "agents": (int,),
    "seed": (int,),
    "traces": (list,),
    "answer": (str, _NONE),
    "score": (dict, _NONE),
    "format_error": (str, _NONE),
    "critical_path": (int,),
    "concurrency": (float, int),
    "reward": (float, int, _NONE),
}
_TRACE: dict[str, tuple[type, ...]] = {
    "role": (str,),
    "fork_id": (int, _NONE),
    "events": (list,),
    "end": (str,),
    "prompt": (int,),  # how many tokens
    "tokens": (int,),
}
_EVENT: dict[str, tuple[type, ...]] = {"action": (str,), "id": (int,), "at": (int,)}


def pack(attempts: Mapping[int, Attempt]) -> bytes:
    """The message that says these episodes, by their number.

    Raises ValueError for an array of another type than `Trace` says: it would come out as another number.
    """
    traces = [trace for attempt in attempts.values() for trace in attempt.episode.traces]
    for trace in traces:
        for name, dtype in COLUMNS.items():
            if getattr(trace, name).dtype != dtype:
                raise ValueError(f"a trace has {name} of type {getattr(trace, name).dtype}, not {dtype}")
    header = {str(number): _to_json(attempt) for number, attempt in attempts.items()}
    columns = (getattr(trace, name).tobytes() for name in COLUMNS for trace in traces)
    return b"".join([json.dumps(header).encode("ascii"), b"\n", *columns])


def unpack(message: bytes) -> dict[int, Attempt]:
    """The episodes that a message says, equal to those that were packed in every value and type.

    Raises ValueError, in one line, for whatever is no such message.
    """
    header, newline, rest = message.partition(b"\n")
    try:
        records = json.loads(header.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no message of episodes: {error}") from None
    if not newline or not isinstance(records, dict) or not all(map(_NUMBER.fullmatch, records)):
        raise ValueError("no message of episodes: it does not begin with a line of numbered episodes")
    for number, record in records.items():
        _check(record, _EPISODE, f"episode {number}")
        for trace in record["traces"]:
            _check_trace(trace, f"a trace of episode {number}")
    traces = [trace for record in records.values() for trace in record["traces"]]
    arrays = _columns(rest, traces)
    found = iter(
        Trace(
            role=trace["role"],
            fork_id=trace["fork_id"],
            events=[Event(**event) for event in trace["events"]],
            end=trace["end"],
            **{name: column[n] for name, column in arrays.items()},
        )
        for n, trace in enumerate(traces)
    )
    return {
        int(number): _attempt(record | {"traces": [next(found) for _ in record["traces"]]})
        for number, record in records.items()
    }


_OF_EPISODE = [field.name for field in dataclasses.fields(Episode)]
_OF_ATTEMPT = [field.name for field in dataclasses.fields(Attempt) if field.name != "episode"]


def _attempt(record: dict[str, Any]) -> Attempt:
    episode = Episode(**{name: record[name] for name in _OF_EPISODE})
    return Attempt(episode=episode, **{name: record[name] for name in _OF_ATTEMPT})


def _to_json(attempt: Attempt) -> dict[str, Any]:
    record = {name: getattr(attempt, name) for name in _OF_ATTEMPT}
    record |= {name: getattr(attempt.episode, name) for name in _OF_EPISODE}
    record["traces"] = [
        {
            "role": trace.role,
            "fork_id": trace.fork_id,
            "events": [dataclasses.asdict(event) for event in trace.events],
            "end": trace.end,
            "prompt": len(trace.prompt),
            "tokens": len(trace.tokens),
        }
        for trace in attempt.episode.traces
    ]
    return record


def _columns(data: bytes, traces: list[dict[str, Any]]) -> dict[str, list[np.ndarray]]:
    """The arrays of every trace, by column. `data` has to be of just the size that the lengths add up to."""
    lengths = {name: [trace["prompt" if name == "prompt" else "tokens"] for trace in traces] for name in COLUMNS}
    expected = sum(sum(lengths[name]) * dtype.itemsize for name, dtype in COLUMNS.items())
    if len(data) != expected:
        raise ValueError(f"a message of episodes has {len(data)} bytes of arrays, where its lengths say {expected}")
    arrays, start = {}, 0
    for name, dtype in COLUMNS.items():
        count = sum(lengths[name])
        column = np.frombuffer(data, dtype, count, start)
        start += column.nbytes
        arrays[name] = [part.copy() for part in np.split(column, np.cumsum(lengths[name])[:-1])] if traces else []
    return arrays


def _check_trace(trace: Any, where: str) -> None:
    _check(trace, _TRACE, where)
    if trace["role"] not in get_args(Role) or trace["end"] not in get_args(End):
        raise ValueError(f"{where} in a message has role {trace['role']!r:.40} and end {trace['end']!r:.40}")
    if min(trace["prompt"], trace["tokens"]) < 0:
        raise ValueError(f"{where} in a message has a negative length")
    for event in trace["events"]:
        _check(event, _EVENT, f"an event of {where}")
        if event["action"] not in ("fork", "join"):
            raise ValueError(f"an event of {where} in a message is {event['action']!r:.40}")


def _check(record: Any, types: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Raises ValueError unless `record` has just these fields, each of one of its types."""
    if not isinstance(record, dict) or record.keys() != types.keys():
        raise ValueError(f"{where} in a message has not the fields {', '.join(types)}")
    for name, allowed in types.items():
        if type(record[name]) not in allowed:
            raise ValueError(f"{where} in a message has {name} of type {type(record[name]).__name__}")
