"""What the host sees of a rollout under way.

The loop returns to the host every so many steps, and the host fetches what is new: the records, which are small, and of
the token buffers the places that have become known since it last looked. They are only ever appended to.
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from asyncthink_jax.rollout.record import Rollout

if TYPE_CHECKING:
    from asyncthink_jax.rollout.engine import Engine
    from asyncthink_jax.rollout.state import State

BUFFERS = ("tokens", "sampled", "logprobs", "steps")
WINDOW = 64  # tokens of a trace that are fetched at once


class View:
    """The host's copy of the token buffers of one rollout.

    Args:
        engine: whose rollout it is.
        prompts: token ids of each episode.
        places: where each of them stands in the queues.
    """

    def __init__(self, engine: "Engine", prompts: list[list[int]], places: Int[np.ndarray, "n"]):
        self.engine, self.places = engine, places
        self.prompt_lengths = np.array([len(prompt) for prompt in prompts])
        shape = (len(prompts), engine.traces, engine.limits.context)
        kinds = (np.int32, np.bool_, np.float32, np.int32)
        self.buffers = {name: np.zeros(shape, kind) for name, kind in zip(BUFFERS, kinds, strict=True)}
        self.seen = np.zeros(shape[:2], int)  # known tokens that are in the copy
        for n, prompt in enumerate(prompts):
            self.buffers["tokens"][n, 0, : len(prompt)] = prompt
            self.seen[n, 0] = len(prompt)

    def look(self, state: "State") -> Rollout:
        """The episodes as they are now: those that wait for a slot have nothing but their prompt.

        The arrays of the Rollout are shared by all that are made here. What is known in one of them does not change.
        """
        names = [field.name for field in dataclasses.fields(state.finished)]
        small = (state.finished, state.current, state.place, state.active, state.engine_steps, state.sampled_tokens)
        finished, current, place, active, engine_steps, sampled_tokens = jax.device_get(small)
        slot = self.engine.working_slots(place, active, len(finished.used))[self.places]
        record = {}
        for name in names:
            record[name] = getattr(finished, name)[self.places]
            record[name][slot >= 0] = getattr(current, name)[slot[slot >= 0]]
        self._fetch(state, record["known"])
        steps = int(engine_steps.max())
        return Rollout(
            numbers=np.arange(len(self.prompt_lengths)),
            **{name: _read_only(buffer) for name, buffer in self.buffers.items()},
            record=record,
            prompt_lengths=self.prompt_lengths,
            worker_frame=self.engine.wire.worker_frame,
            worker_length=self.engine.limits.worker_length,
            agents=self.engine.agents,
            engine_steps=steps,
            occupancy=self.engine.occupancy(int(sampled_tokens.sum()), steps),
            prefills=0,
        )

    def _fetch(self, state: "State", known: Int[np.ndarray, "n T"]) -> None:
        """Copies the places from `seen` to `known` of every trace."""
        length = self.engine.limits.context
        window = min(WINDOW, length)
        pieces = [
            (n, trace, start)
            for n, trace in np.argwhere(known > self.seen)
            for start in range(self.seen[n, trace], known[n, trace], window)
        ]
        per_call = self.engine.limits.slots * self.engine.traces  # one program, whatever there is to fetch
        on_device = tuple(getattr(state, name) for name in BUFFERS)
        for first in range(0, len(pieces), per_call):
            part = np.zeros((per_call, 3), int)
            count = len(pieces[first : first + per_call])
            part[:count] = pieces[first : first + per_call]
            episode, trace, start = part.T
            rows = self.places[episode] * self.engine.traces + trace
            fetched = jax.device_get(_window(on_device, rows.astype(np.int32), start.astype(np.int32), window))
            for k, (n, t, begin) in enumerate(pieces[first : first + per_call]):
                end = min(begin + window, known[n, t])
                for name, values in zip(BUFFERS, fetched, strict=True):
                    self.buffers[name][n, t, begin:end] = values[k, : end - begin]
        self.seen = np.maximum(self.seen, known)


@jax.jit(static_argnames="window")
def _window(
    buffers: tuple[Array, ...], rows: Int[Array, "K"], starts: Int[Array, "K"], window: int
) -> tuple[Array, ...]:
    places = starts[:, None] + jnp.arange(window)
    return tuple(buffer.at[rows[:, None], places].get(mode="clip") for buffer in buffers)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
