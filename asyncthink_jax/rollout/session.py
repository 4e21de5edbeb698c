"""A session: episodes of one model, submitted and taken at any time while others run.

    session = engine.open(params, key, temperature)
    ticket = session.submit(prompt)
    while ticket not in session.advance(steps=16):
        session.view([ticket])          # as far as it has come
    episode = session.take(ticket).episode(0, token_bytes)

A ticket is the number of a submission. An episode depends on its prompt, its `episode_id`, the key and the temperature
alone: not on when it was submitted, on its neighbours, or on their being cancelled. The memory is that of `room`
episodes, for as long as the session lives: what does not fit waits on the host, and the place of an episode that was
taken or cancelled is used again.
"""

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from asyncthink_jax.parallel.sharding import own_rows, row_spec, shard
from asyncthink_jax.rollout import prefill
from asyncthink_jax.rollout.loop import Loop
from asyncthink_jax.rollout.mirror import BUFFERS, Mirror
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.rollout.state import Queue, State

FOREVER = 1 << 30  # steps that no rollout has


class Session:
    """Made by `Engine.open`, which describes the arguments."""

    def __init__(
        self, loop: Loop, params: Any, key: Key[Array, ""], temperature: float, room: int, longest_prompt: int
    ):
        self.loop, self.params, self.key = loop, params, key
        self.temperature = jnp.asarray(temperature, jnp.float32)
        slots = loop.limits.slots
        self.room = -(-room // slots) * slots
        self.longest_prompt = longest_prompt
        self._state: State | None = None
        self._queue = Queue.empty(self.room, loop.shards)
        self._on_device: Queue | None = None  # the queue, if it hasn't changed since
        per_device = self.room // loop.shards
        self._free = [deque(range(per_device)) for _ in range(loop.shards)]  # places of each device
        self._count = 0  # submissions so far
        self._waiting: dict[int, tuple[list[int], int]] = {}  # ticket -> prompt, episode id; not on a device yet
        self._place: dict[int, int] = {}  # ticket -> its place among all
        self._prompt: dict[int, list[int]] = {}  # ticket -> its prompt
        self._cancelled: set[int] = set()
        self._filed = np.zeros((self.room,), bool)
        self._told = np.zeros((self.room,), bool)  # `advance` has said that the episode here has finished
        self._steps = np.zeros((slots,), int)
        self._active, self._longest, self._read_length = False, 0, 0
        self._numbers: dict[tuple[int, ...], list[int]] = {}  # prompt -> its number, the places that hold it
        self._last_number = 0
        self._mirror = Mirror(loop, self.room)

    # ------------------------------------------------------------------------------------------- what a caller does

    def submit(self, prompt: Sequence[int], episode_id: int | None = None) -> int:
        """Hands in a prompt; it begins when a slot is free, at `advance` at the earliest.

        Args:
            prompt: token ids.
            episode_id: what the random numbers of the episode are keyed by; default the ticket.

        Returns:
            The ticket.

        Raises:
            ValueError: the prompt is empty, longer than a row, or longer than the session was opened for.
        """
        ticket, length = self._count, self.loop.limits.context
        if not 1 <= len(prompt) <= length:
            raise ValueError(f"prompt {ticket} has {len(prompt)} tokens, but must have 1 to {length} (rollout.context)")
        if len(prompt) > self.longest_prompt:
            raise ValueError(
                f"prompt {ticket} has {len(prompt)} tokens, but the session's longest_prompt is {self.longest_prompt}"
            )
        self._count += 1
        self._waiting[ticket] = (list(prompt), ticket if episode_id is None else episode_id)
        return ticket

    def advance(self, steps: int = FOREVER) -> list[int]:
        """Decodes for at most `steps` engine steps, or until nothing is left to do. Another number compiles nothing.

        It may return earlier, where the attention of a longer row needs another program.

        Returns:
            The tickets of the episodes that have finished since the last call.
        """
        self._admit()
        if self._active:
            self._decode(steps)
        done = [ticket for ticket, place in self._place.items() if self._filed[place] and not self._told[place]]
        for ticket in done:
            self._told[self._place[ticket]] = True
        return done

    @property
    def pending(self) -> bool:
        """Whether `advance` has anything to do: an episode runs, or one waits that there is a place for."""
        return self._active or bool(self._waiting and any(self._free))

    @property
    def steps(self) -> int:
        """Engine steps so far, on the device that has taken most."""
        return int(np.max(self._steps))

    def finished(self, ticket: int) -> bool:
        """Whether an episode is complete. Raises KeyError for a ticket that was taken or cancelled."""
        return ticket not in self._waiting and bool(self._filed[self._held(ticket)])

    def view(self, tickets: Sequence[int]) -> Rollout:
        """Episodes as far as they have come; of one that waits there is the prompt alone. By a single process only.

        The arrays are the caller's own. Raises KeyError for a ticket that was taken or cancelled.
        """
        self._admit()
        assert self._state is not None
        prompts = [self._waiting[t][0] if t in self._waiting else self._prompt[t] for t in tickets]
        places = np.array([-1 if t in self._waiting else self._held(t) for t in tickets], int)
        return self._mirror.look(self._state, places, prompts)

    def take(self, ticket: int) -> Rollout:
        """The one episode of a ticket that has finished; its place is free from now on. By a single process only.

        Raises:
            ValueError: it hasn't finished.
            KeyError: it was taken or cancelled.
        """
        if not self.finished(ticket):
            raise ValueError(f"episode {ticket} has not finished")
        rollout = self.view([ticket])
        self._give_back(ticket)
        return rollout

    def cancel(self, ticket: int) -> None:
        """Gives an episode up; its slot is free at the next `advance`. A finished one is dropped.

        Raises KeyError for a ticket that was taken or cancelled.
        """
        if self._waiting.pop(ticket, None) is not None:
            return
        place = self._held(ticket)
        if self._filed[place]:
            self._give_back(ticket)
        else:
            self._cancelled.add(ticket)
            self._queue.cancelled[place] = True
            self._on_device = None

    def rollout(self) -> Rollout:
        """All episodes of a session in which none was taken or cancelled, in the order of their tickets.

        With several processes those that ran on devices of this one; what is counted is of all.
        """
        self._admit()
        assert self._state is not None and len(self._place) == self._count
        own = own_rows(self._put(np.arange(self.room)))
        counted = [int(number) for number in jax.device_get(self.loop.counted(self._state))]
        state: Any = own_rows(self._state.replace(cache=None, kept=None))  # of these places alone, in ascending order
        places = np.array([self._place[ticket] for ticket in range(self._count)], int)
        numbers = np.flatnonzero(np.isin(places, own))
        place = np.searchsorted(own, places[numbers])
        buffers = {name: getattr(state, name) for name in BUFFERS}
        return self.loop.rollout(
            [self._prompt[n] for n in numbers.tolist()],
            *counted,
            numbers=numbers,
            record={f.name: getattr(state.finished, f.name)[place] for f in dataclasses.fields(state.finished)},
            **{name: x.reshape(len(own), self.loop.traces, x.shape[-1])[place] for name, x in buffers.items()},
        )

    # ------------------------------------------------------------------------------------------------ how it is done

    def _decode(self, steps: int) -> None:
        assert self._state is not None
        if not self._read_length:
            self._read_length = self._bucket(self._longest)
        before = self._steps
        self._state = self.loop.advance(
            self.params,
            self._state,
            self._queue_on_device(),
            self.key,
            self.temperature,
            jnp.asarray(steps, jnp.int32),
            read_length=self._read_length,
        )
        self._look()
        # Choose the read length anew only if the loop ended early; otherwise a watched rollout rounds differently.
        if np.max(self._steps - before) < steps:
            self._read_length = 0

    def _held(self, ticket: int) -> int:
        """The place of a ticket. Raises KeyError for one that was taken or cancelled."""
        if ticket in self._cancelled:
            raise KeyError(ticket)
        return self._place[ticket]

    def _admit(self) -> None:
        """Gives places to what waits, as far as there are any; the episodes begin where a slot is free."""
        if self._state is not None and not (self._waiting and any(self._free)):
            return
        table = np.zeros((self.room, self.loop.limits.context), np.int32)
        admitted = np.zeros((self.room,), bool)
        while self._waiting and any(self._free):
            ticket = next(iter(self._waiting))
            prompt, episode_id = self._waiting.pop(ticket)
            place = self._next_place(ticket)
            table[place, : len(prompt)] = prompt
            admitted[place] = True
            self._place[ticket], self._prompt[ticket] = place, prompt
            self._mirror.forget(place)
            self._told[place] = False
            self._queue.lengths[place], self._queue.episodes[place] = len(prompt), episode_id
            self._queue.prompts[place], self._queue.cancelled[place] = self._number(prompt), False
        self._on_device = None
        arguments = (self._put(admitted), self._put(table), self._queue_on_device())
        if self._state is None:
            longest, limits = self.longest_prompt, self.loop.limits
            reads_at_once = 0 < limits.prefill <= longest
            rounded = min(-(-longest // prefill.ROUND_UP) * prefill.ROUND_UP, limits.context)
            self._state = self.loop.start(*arguments, prompt_length=rounded if reads_at_once else 0)
        else:
            self._state = self.loop.admit(self._state, *arguments)
        self._look()
        # Else a device whose rows have outgrown it would stand still for as long as others are kept busy.
        self._read_length = 0

    def _next_place(self, ticket: int) -> int:
        """A free place, put into the order of its device.

        Submissions are dealt out to the devices a handful at a time, one for each slot, so that samples of a problem
        stay together. Where a device is full, one with more room takes its part.
        """
        shards, slots = self.loop.shards, self.loop.limits.slots
        device = ticket % slots // (slots // shards)
        if not self._free[device]:
            device = max(range(shards), key=lambda d: len(self._free[d]))
        own, per_device = self._free[device].popleft(), self.room // shards
        turn = self._queue.submitted[device] % per_device
        self._queue.order[device * per_device + turn] = own
        self._queue.submitted[device] += 1
        return device * per_device + own

    def _give_back(self, ticket: int) -> None:
        place, prompt = self._place.pop(ticket), tuple(self._prompt.pop(ticket))
        device, own = divmod(place, self.room // self.loop.shards)
        self._free[device].append(own)
        self._numbers[prompt][1] -= 1
        if not self._numbers[prompt][1]:
            del self._numbers[prompt]

    def _number(self, prompt: Sequence[int]) -> int:
        """A number that all equal prompts of the session have, and no other one."""
        if tuple(prompt) not in self._numbers:
            self._numbers[tuple(prompt)] = [self._last_number, 0]
            self._last_number += 1
        entry = self._numbers[tuple(prompt)]
        entry[1] += 1
        return entry[0]

    def _look(self) -> None:
        """What the host has to know: whether an episode runs, the longest row, the steps, and what is complete.

        The places of cancelled episodes that are over are free from now on.
        """
        assert self._state is not None
        active, longest, steps, filed = jax.device_get(self.loop.seen(self._state))
        self._active, self._longest = bool(active), int(longest)
        self._steps, self._filed = np.array(steps), np.array(filed)  # copies: the state's own memory is used again
        for ticket in [ticket for ticket in self._cancelled if self._filed[self._place[ticket]]]:
            self._cancelled.discard(ticket)
            self._give_back(ticket)

    def _bucket(self, longest: int) -> int:
        """How many cache positions attention reads while no row is longer: half or all, each compiled once."""
        limits = self.loop.limits
        half = limits.context // 2
        fits = longest + limits.feed_width + half // 4 <= half
        return half if fits and not self.loop.whole_cache else limits.context

    def _queue_on_device(self) -> Queue:
        if self._on_device is None:
            self._on_device = Queue(*(self._put(np.array(x)) for x in self._queue))
        return self._on_device

    def _put(self, x: np.ndarray) -> Array:
        mesh = self.loop.mesh
        return jnp.asarray(x) if mesh is None else shard(x, row_spec(mesh))
