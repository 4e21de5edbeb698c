"""What a rollout carries from step to step, and how it is indexed: by slot, by trace, by row."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from asyncthink_jax.protocol.rules import Inside, id_state


class TraceEnd(enum.IntEnum):
    """How a trace has ended."""

    RUNNING = 0  # not yet; where its episode is over, it was stopped there
    ANSWER = 1
    RETURN = 2
    BUDGET = 3
    FORMAT_ERROR = 4


class Where(NamedTuple):
    """Which token of which trace each row is about to sample; a scripted model needs it, a transformer does not."""

    episode: Int[Array, "R"]
    trace: Int[Array, "R"]
    decoded: Int[Array, "R"]


class DecodingModel(NamedTuple):
    """What the engine needs of a model.

    `init_cache(rows, length)` gives an empty cache. `logits(params, cache, tokens[R,W], positions[R,W], last[R],
    read_length, where)` feeds tokens (position -1: nothing), and returns the logits [R,V] after column `last` of each
    row, and the cache. `prepare(params)`, called before the loop, gives the parameters the form in which `logits` wants
    them.

    A model that can read a prompt at once has three more (rollout/prefill.py): `prompt_cache(entries, length)` gives an
    empty cache of prompts; `prefill(params, tokens[1,P])` one of a single prompt; `adopt(cache, prompts, entry, slot,
    slots)` copies an entry of a cache of prompts to the row of the organizer in one of `slots` slots.
    """

    init_cache: Callable[[int, int], Any]
    logits: Callable[..., tuple[Float[Array, "R V"], Any]]
    prepare: Callable[[Any], Any] = lambda params: params
    prompt_cache: Callable[[int, int], Any] | None = None
    prefill: Callable[[Any, Int[Array, "1 P"]], Any] | None = None
    adopt: Callable[[Any, Any, Int[Array, ""], Int[Array, ""], int], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """Static sizes of a rollout. Budgets count decoded tokens, a context all known tokens of a row.

    `worker_context` (default: `context`) lets workers' rows be shorter than their organizer's, `worker_rows` (default:
    one for each worker of the pool) lets them be fewer: a forked worker then waits for a row. Prompts of at least
    `prefill` tokens are read at once (0 = none), other known text at `feed_width` tokens a step and row, in steps for
    which more than `wide_at` tokens a working row wait that a narrow step would leave. Where tokens are constrained, an
    organizer answers when it has joined `min_workers` workers at least.
    """

    slots: int
    context: int
    organizer_budget: int
    worker_budget: int
    feed_width: int = 1
    worker_context: int | None = None
    worker_rows: int | None = None
    prefill: int = 0
    wide_at: float = 0.0
    min_workers: int = 0

    @property
    def worker_length(self) -> int:
        return self.context if self.worker_context is None else self.worker_context

    def rows_of_slot(self, agents: int) -> int:
        """A, the rows that an episode of a pool of `agents` agents has: its organizer's, then its workers'."""
        return agents if self.worker_rows is None else min(agents, 1 + self.worker_rows)


class Queue(NamedTuple):
    """The prompts that wait at places of the devices: Q places in all, those of a device side by side."""

    lengths: Int[Array, "Q"]  # tokens of the prompt at a place
    episodes: Int[Array, "Q"]  # what the random numbers of its episode are keyed by
    prompts: Int[Array, "Q"]  # equal numbers mean equal prompts
    cancelled: Bool[Array, "Q"]  # its episode is given up
    order: Int[Array, "Q"]  # the n-th prompt that a device takes is at place order[n % its places]
    submitted: Int[Array, "D"]  # prompts that each device has been given so far

    @staticmethod
    def empty(room: int, devices: int) -> "Queue":
        """NumPy arrays for `room` places on all devices together."""
        lengths, episodes, prompts, order = np.zeros((4, room), np.int32)
        arrays: Any = (lengths, episodes, prompts, np.zeros((room,), bool), order, np.zeros((devices,), np.int32))
        return Queue(*arrays)


class State(struct.PyTreeNode):
    """One rollout under way. First axis: slots (S), places (Q), or places * traces (the token buffers)."""

    cache: Any
    kept: Any  # prompts that were read at once (prefill.Kept), None = none
    # What comes out, a row per (place, trace): known tokens, which were sampled, log-probabilities, steps.
    tokens: Int[Array, "QT L"]
    sampled: Bool[Array, "QT L"]
    logprobs: Float[Array, "QT L"]  # in the distribution sampled from
    steps: Int[Array, "QT L"]
    finished: "Episodes"  # [Q, ...]: the episodes that have ended
    filed: Bool[Array, "Q"]  # nothing at this place will change any more
    # The episode each slot works on.
    current: "Episodes"  # [S, ...]
    turn: Int[Array, "S"]  # it is the device's n-th, from 0; -1 = none so far
    place: Int[Array, "S"]  # among those of the device
    active: Bool[Array, "S"]  # False where the queue had no prompt for it
    row_trace: Int[Array, "S A"]  # trace that a row decodes, -1 = idle
    fed: Int[Array, "S T"]  # known tokens in the cache
    decoding: Bool[Array, "S T"]  # False while the trace waits for text from another trace
    pulled: Int[Array, "S T"]  # tokens taken of the text it waits for
    waits_for: Int[Array, "S"]  # the worker an organizer is joining, 0 = none
    lexer: Int[Array, "S T"]  # automaton state
    tag_start: Int[Array, "S T"]  # position at which the tag in progress started
    inside: Int[Array, "S T"]  # rules.Inside
    open_fork: Int[Array, "S"]  # id of the Fork that an organizer is inside of
    engine_steps: Int[Array, "S"]  # so far, the same for all slots of a device
    sampled_tokens: Int[Array, "S"]


class Episodes(struct.PyTreeNode):
    """The record of an episode, by trace (axis T) where it has one. Leading axis: [S] in flight, [Q] finished."""

    known: Int[Array, "... T"]
    decoded: Int[Array, "... T"]
    clock: Int[Array, "... T"]  # step of the last decoded token (organizers: or of the last Join)
    end: Int[Array, "... T"]  # TraceEnd
    error: Int[Array, "... T"]  # FormatError
    sub_start: Int[Array, "... T"]  # sub-query i: positions in the organizer's trace
    sub_end: Int[Array, "... T"]
    return_start: Int[Array, "... T"]  # takeaways: positions in the worker's own trace, -1 = no <RETURN>
    return_end: Int[Array, "... T"]
    fork_at: Int[Array, "... T"]  # the organizer's decoded tokens at </FORK-i>, 0 = not forked
    join_at: Int[Array, "... T"]  # the organizer's decoded tokens at <JOIN-i>, 0 = not joined
    used: Bool[Array, "... T"]  # <FORK-i> was written


def blank_episodes(shape: tuple[int, ...], traces: int) -> Episodes:
    per_trace = lambda: jnp.zeros((*shape, traces), jnp.int32)  # noqa: E731
    names = [f.name for f in dataclasses.fields(Episodes)]
    record = {name: per_trace() for name in names}
    record["return_start"] = record["return_start"] - 1
    record["used"] = jnp.zeros((*shape, traces), bool)
    return Episodes(**record)


def id_states(now: Episodes, inside: Int[Array, "S T"], open_fork: Int[Array, "S"], agents: int) -> Int[Array, "S T"]:
    """The `rules.IdState` of every id of the episodes in flight; id 0 stands for those out of range."""
    ids, joined = jnp.arange(now.used.shape[1])[None, :], now.join_at > 0
    return id_state(
        jnp,
        in_range=ids > 0,
        is_open=(inside[:, :1] == Inside.FORK) & (ids == open_fork[:, None]),
        used=now.used,
        joined=joined,
        has_room=jnp.sum(now.used & ~joined, axis=1, keepdims=True) < agents - 1,
    )


def at(values: Array, trace: Array) -> Array:
    """values[s, trace[s, ..]]"""
    return jnp.take_along_axis(values, trace, axis=1)


def one_hot(values: Array, trace: Int[Array, "S A"]) -> Bool[Array, "S A T"]:
    return trace[:, :, None] == jnp.arange(values.shape[1])


def add_at(values: Array, trace: Int[Array, "S A"], amount: Array | int) -> Array:
    """values[s, trace[s, a]] += amount[s, a]; trace -1 adds nothing. Dense, since XLA's scatters are slow on CPU."""
    amount = jnp.broadcast_to(amount, trace.shape)
    return values + jnp.sum(jnp.where(one_hot(values, trace), amount[:, :, None], 0), axis=1)


def set_at(values: Array, trace: Int[Array, "S A"], new: Array | int) -> Array:
    """values[s, trace[s, a]] = new[s, a]; trace -1 sets nothing."""
    chosen = one_hot(values, trace)
    new = jnp.sum(jnp.where(chosen, jnp.broadcast_to(new, trace.shape)[:, :, None], 0), axis=1)
    return jnp.where(jnp.any(chosen, axis=1), new, values).astype(values.dtype)
