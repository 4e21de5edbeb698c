"""The host's copy of a session's token buffers, by place: what has become known since it last looked is fetched.

The records of the episodes are small. Of the buffers some hundred bytes a token are fetched; logits never leave the
device.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from asyncthink_jax.rollout.loop import Loop
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.rollout.state import State

BUFFERS = {"tokens": np.int32, "sampled": np.bool_, "logprobs": np.float32, "steps": np.int32}
WINDOW = 64  # tokens of a trace that are fetched at once


class Mirror:
    """Of `room` places; nothing is kept before somebody looks."""

    def __init__(self, loop: Loop, room: int):
        self.loop, self.room = loop, room
        self._seen = np.zeros((room, loop.traces), int)  # known tokens that are in the copy
        self._buffers: dict[str, np.ndarray] = {}

    def forget(self, place: int) -> None:
        """Another episode stands at a place: what was seen there is of the one before."""
        self._seen[place] = 0
        for buffer in self._buffers.values():
            buffer[place] = 0

    def look(self, state: State, places: Int[np.ndarray, "n"], prompts: Sequence[Sequence[int]]) -> Rollout:
        """The episodes at some places as they are now, in arrays of their own; place -1: nothing but the prompt."""
        if not self._buffers:
            shape = (self.room, self.loop.traces, self.loop.limits.context)
            self._buffers = {name: np.zeros(shape, kind) for name, kind in BUFFERS.items()}
        small = (state.finished, state.current, state.place, state.active, state.engine_steps, state.sampled_tokens)
        finished, current, place, active, engine_steps, sampled_tokens = jax.device_get(small)
        waits, slot = places < 0, self._slots(place, active)[places]
        slot[waits] = -1
        record = {}
        for field in dataclasses.fields(finished):
            record[field.name] = getattr(finished, field.name)[places]
            record[field.name][slot >= 0] = getattr(current, field.name)[slot[slot >= 0]]
            record[field.name][waits] = -1 if field.name == "return_start" else 0
        self._fetch(state, places[~waits], record["known"][~waits])
        buffers = {name: buffer[places] for name, buffer in self._buffers.items()}
        for buffer in buffers.values():
            buffer[waits] = 0
        for tokens, prompt in zip(buffers["tokens"], prompts, strict=True):
            tokens[0, : len(prompt)] = prompt
        counted = int(engine_steps.max()), int(sampled_tokens.sum())
        return self.loop.rollout(prompts, *counted, numbers=np.arange(len(places)), record=record, **buffers)

    def _slots(self, place: Int[np.ndarray, "S"], active: np.ndarray) -> Int[np.ndarray, "Q"]:
        """Which slot works on each place, -1 = none. A slot's own `place` is among those of its device."""
        shards = self.loop.shards
        device = np.arange(len(active)) // (len(active) // shards)
        slot = np.full(self.room, -1)
        slot[(device * (self.room // shards) + place)[active]] = np.flatnonzero(active)
        return slot

    def _fetch(self, state: State, places: Int[np.ndarray, "n"], known: Int[np.ndarray, "n T"]) -> None:
        """Copies what is known of every trace, from `_seen` on."""
        window = min(WINDOW, self.loop.limits.context)
        pieces = np.array(
            [
                (places[n], trace, start)
                for n, trace in np.argwhere(known > self._seen[places])
                for start in range(self._seen[places[n], trace], known[n, trace], window)
            ],
            int,
        ).reshape(-1, 3)
        self._seen[places] = np.maximum(self._seen[places], known)
        per_call = self.loop.limits.slots * self.loop.traces  # one program, whatever there is to fetch
        on_device = tuple(getattr(state, name) for name in BUFFERS)
        for first in range(0, len(pieces), per_call):
            part = pieces[first : first + per_call]
            place, trace, start = np.pad(part, ((0, per_call - len(part)), (0, 0))).T
            rows = place * self.loop.traces + trace
            fetched = jax.device_get(_window(on_device, rows.astype(np.int32), start.astype(np.int32), window))
            for k, (p, t, begin) in enumerate(part):
                end = min(begin + window, self._seen[p, t])
                for name, values in zip(BUFFERS, fetched, strict=True):
                    self._buffers[name][p, t, begin:end] = values[k, : end - begin]


@jax.jit(static_argnames="window")
def _window(
    buffers: tuple[Array, ...], rows: Int[Array, "K"], starts: Int[Array, "K"], window: int
) -> tuple[Array, ...]:
    places = starts[:, None] + jnp.arange(window)
    return tuple(buffer.at[rows[:, None], places].get(mode="clip") for buffer in buffers)
