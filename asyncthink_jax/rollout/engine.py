"""The engine: fork-join episodes decoded inside one jitted loop.

Rows. A batch has S slots of A rows, R = S * A. Row (s, 0) is that of the organizer of the episode in slot s, the others
are for its workers: as many as the pool has, or fewer, and then a forked worker waits for one. Slots are sharded over
the data axes, and nothing that an episode does touches another slot. A device has a queue of prompts, of which each of
its slots takes the next when its episode is over: so the batch stays full however long episodes are, and there is no
collective.

Traces. Trace 0 of an episode is the organizer, trace i the worker of FORK-i. Tokens belong to traces, the KV cache to
rows: a worker's row is free again when the worker ends.

The loop. `rollout/step.py` does one step of all rows. Between steps, when one is over, an episode hands its slot to the
next prompt. The host is asked nothing before all is done, unless somebody watches (rollout/watch.py).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from asyncthink_jax.parallel.sharding import ROWS, cache_spec, own_rows, replicated, row_spec, shard
from asyncthink_jax.protocol.wire import Wire
from asyncthink_jax.rollout import prefill
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.rollout.sampling import EVERYTHING, Sampling
from asyncthink_jax.rollout.state import DecodingModel, Limits, Queue, State, TraceEnd, blank_episodes, of_prompt
from asyncthink_jax.rollout.step import Step
from asyncthink_jax.rollout.watch import View

FOREVER = 1 << 30  # steps after which the loop returns to the host where nobody watches: more than any rollout has
# Steps after which it returns where somebody polls. Returning costs about a millisecond, a step on a TPU ten of them.
POLL_EVERY = 64


def step_scope(width: int) -> str:
    """The name in a compiled program of a step in which a row feeds up to so many tokens."""
    return f"step_{width}"


class Engine:
    """A compiled rollout for one model, one protocol in tokens and one set of limits.

    Args:
        model: what decodes.
        wire: the protocol in tokens: pool capacity, tags, what stands around sub-queries, end-of-text.
        limits: static sizes.
        mesh: slots and rows are split over its data and fsdp axes; None = one device.
        sampling: what changes the distribution beside the temperature.
        constrain: only tokens that make no format error are sampled.
        whole_cache: attention reads all of the cache, or what it takes to be enough of it, so that there is one program
            to compile and not two.

    Raises:
        ValueError: if `limits.prefill` or `limits.worker_rows` can't be used, or the vocabulary can't be constrained.
    """

    def __init__(
        self,
        model: DecodingModel,
        wire: Wire,
        limits: Limits,
        mesh: jax.sharding.Mesh | None = None,
        sampling: Sampling = EVERYTHING,
        constrain: bool = False,
        whole_cache: bool = False,
    ):
        if limits.prefill and model.prefill is None:
            raise ValueError("this model can't read a prompt at once: set Limits.prefill (rollout.prefill) to 0")
        if limits.worker_rows == 0 < wire.grammar.capacity - 1:
            raise ValueError("without a row no worker ever ends: Limits.worker_rows must be at least 1")
        self.step = Step(model, wire, limits, sampling, constrain)
        self.model, self.wire, self.limits, self.mesh, self.whole_cache = model, wire, limits, mesh, whole_cache
        self.agents, self.rows, self.traces = self.step.agents, self.step.rows, self.step.traces
        self.shards = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ROWS)
        self._advance = jax.jit(self._on_each_device, static_argnames="read_length", donate_argnums=1)
        self._start = jax.jit(self._initial, static_argnames="prompt_length")
        # What the host asks of all slots; with several processes it sees the slots of its own devices alone.
        whole = None if mesh is None else replicated(mesh)
        self._seen = jax.jit(_seen, out_shardings=whole)
        self._counted = jax.jit(partial(_counted, self.shards), out_shardings=whole)

    # The host's side: fill the queues, run until all of them are empty.

    def run(
        self,
        params: Any,
        prompts: list[list[int]],
        key: Key[Array, ""],
        temperature: float,
        episode_ids: list[int] | None = None,
        rounds: int | None = None,
        watch: Callable[[Rollout], None] | None = None,
        every: int = 8,
        poll: Callable[[], None] | None = None,
    ) -> Rollout:
        """Decodes one episode for each prompt.

        Args:
            params: the model's parameters, in the rollout layout.
            prompts: token ids; episode n is the n-th of them.
            key: seed of all random numbers of this call.
            temperature: of the sampling; 0 is greedy.
            episode_ids: what the random numbers of each episode are keyed by; default 0, 1, 2, ..
            rounds: prompts that there is room for, in multiples of the slots; default just enough. Calls with equal
                rounds share their compilation.
            watch: called every so many engine steps with all episodes as far as they have come. It changes nothing in
                them. What it is given must not be written to, and is good for as long as it likes.
            every: those steps, at least 1; another number needs no compilation.
            poll: called now and then while episodes go on, by all processes alike. What it raises gives the rollout up.

        Raises:
            ValueError: a prompt is empty or longer than a row, or the rollout can't be watched so.
        """
        if every < 1:
            raise ValueError(f"every is {every}, but it must be at least one step")
        if watch and jax.process_count() > 1:
            raise ValueError("a rollout can be watched by a single process only")
        length = self.limits.context
        longest = max(map(len, prompts), default=0)
        for n, prompt in enumerate(prompts):
            if not 1 <= len(prompt) <= length:
                raise ValueError(f"prompt {n} has {len(prompt)} tokens, but must have 1 to {length} (rollout.context)")
        rounds = max(rounds or 1, -(-len(prompts) // self.limits.slots))
        room = rounds * self.limits.slots
        table = np.zeros((room, length), np.int32)
        queue = Queue(*(np.zeros((room,), np.int32) for _ in Queue._fields))
        numbers: dict[tuple[int, ...], int] = {}  # equal prompts have equal numbers
        places = self.places(len(prompts), rounds)
        for n, (place, prompt) in enumerate(zip(places, prompts, strict=True)):
            table[place, : len(prompt)] = prompt
            queue.lengths[place] = len(prompt)
            queue.episodes[place] = n if episode_ids is None else episode_ids[n]
            queue.prompts[place] = numbers.setdefault(tuple(prompt), len(numbers))
        prefills = 0 < self.limits.prefill <= longest
        state = self._start(
            self._put(table),
            self._put(queue.lengths),
            prompt_length=min(-(-longest // prefill.ROUND_UP) * prefill.ROUND_UP, length) if prefills else 0,
        )
        queue = Queue(*(self._put(x) for x in queue))
        temperature = jnp.asarray(temperature, jnp.float32)
        view = View(self, prompts, places) if watch else None
        most = every if watch else POLL_EVERY if poll else FOREVER
        active, longest, steps = self._look(state)
        read_length = None
        while active:
            if read_length is None:
                read_length = self._bucket(longest)
            arguments = (params, state, queue, key, temperature, jnp.asarray(most, jnp.int32))
            state = self._advance(*arguments, read_length=read_length)
            before = steps
            active, longest, steps = self._look(state)
            if np.max(steps - before) < most:  # no device goes on as far as this; else the watched would differ
                read_length = None
            if view and watch:
                watch(view.look(state))
            if poll and active:
                poll()
        own = own_rows(self._put(np.arange(room)))
        counted = tuple(int(number) for number in jax.device_get(self._counted(state)))
        return Rollout.from_state(self, own_rows(state.replace(cache=None, kept=None)), own, places, prompts, counted)

    def occupancy(self, sampled_tokens: int, steps: int) -> float:
        """The share of all rows that sampled a token, over so many steps."""
        return sampled_tokens / max(1, steps * self.limits.slots * self.rows)

    def places(self, prompts: int, rounds: int) -> Int[np.ndarray, "n"]:
        """Where each of so many prompts stands in the queues of all devices, side by side.

        They are dealt out to the devices a handful at a time, one for each slot: samples of a problem stay together.
        """
        number, slots = np.arange(prompts), self.limits.slots
        own_slots = slots // self.shards
        device, slot = np.divmod(number % slots, own_slots)
        return (device * rounds + number // slots) * own_slots + slot

    def working_slots(
        self, place: Int[np.ndarray, "S"], active: Bool[np.ndarray, "S"], room: int
    ) -> Int[np.ndarray, "room"]:
        """Which slot works on each place of all queues, -1 = none; a slot's own `place` is in its device's queue."""
        device = np.arange(len(active)) // (len(active) // self.shards)
        slot = np.full(room, -1)
        slot[(device * (room // self.shards) + place)[active]] = np.flatnonzero(active)
        return slot

    def _put(self, x: np.ndarray) -> Array:
        return jnp.asarray(x) if self.mesh is None else shard(x, row_spec(self.mesh))

    def _look(self, state: State) -> tuple[bool, int, np.ndarray]:
        """Whether an episode goes on, the most known tokens of one that does, and every slot's engine steps."""
        active, longest, steps = jax.device_get(self._seen(state))
        return bool(active), int(longest), np.array(steps)  # a copy: the state's own memory is used again

    def _bucket(self, longest: int) -> int:
        """How many cache positions attention reads while no row is longer: half or all, each compiled once."""
        half = self.limits.context // 2
        fits = longest + self.limits.feed_width + half // 4 <= half
        return half if fits and not self.whole_cache else self.limits.context

    def _initial(self, prompts: Int[Array, "Q L"], lengths: Int[Array, "Q"], prompt_length: int) -> State:
        slots, traces, length = self.limits.slots, self.traces, self.limits.context
        room, own_slots = len(lengths), slots // self.shards
        rows = room * traces
        tokens = jnp.zeros((room, traces, length), jnp.int32).at[:, 0].set(prompts).reshape(rows, length)
        blank = jnp.zeros((slots, traces), jnp.int32)
        entries = self.shards * max(1, slots // self.shards // 2)  # a group has several samples: half of it would do
        state = State(
            cache=self.model.init_cache(slots * self.rows, length),
            kept=prefill.nothing_kept(self.model, entries, prompt_length) if prompt_length else None,
            tokens=tokens,
            sampled=jnp.zeros((rows, length), bool),
            logprobs=jnp.zeros((rows, length), jnp.float32),
            steps=jnp.zeros((rows, length), jnp.int32),
            finished=blank_episodes((room,), traces),
            current=blank_episodes((slots,), traces),
            place=jnp.arange(slots) % own_slots,
            active=jnp.zeros((slots,), bool),
            row_trace=jnp.zeros((slots, self.rows), jnp.int32),
            fed=blank,
            decoding=blank.astype(bool),
            pulled=blank,
            waits_for=jnp.zeros((slots,), jnp.int32),
            lexer=blank,
            tag_start=blank,
            inside=blank,
            open_fork=jnp.zeros((slots,), jnp.int32),
            engine_steps=jnp.zeros((slots,), jnp.int32),
            sampled_tokens=jnp.zeros((slots,), jnp.int32),
        )
        first = lengths.reshape(self.shards, -1)[:, :own_slots].reshape(slots)
        state = self._begin(state, jnp.ones((slots,), bool), first)
        return state if self.mesh is None else jax.lax.with_sharding_constraint(state, self._shardings(state))

    def _shardings(self, state: State) -> State:
        by_slot, whole, cache = row_spec(self.mesh), replicated(self.mesh), cache_spec(self.mesh)
        return jax.tree.map(lambda x: cache if x.ndim == 4 else by_slot if x.ndim else whole, state)

    def _begin(self, state: State, begins: Bool[Array, "S"], prompt: Int[Array, "S"]) -> State:
        """Starts an episode in the slots that begin, of a prompt of so many tokens; with none the slot goes idle."""
        has_prompt = prompt > 0
        fresh = blank_episodes(begins.shape, self.traces)
        no_room = (prompt >= self.limits.context) | (self.limits.organizer_budget == 0)
        fresh = fresh.replace(
            known=fresh.known.at[:, 0].set(jnp.where(has_prompt, prompt, 0)),
            end=fresh.end.at[:, 0].set(jnp.where(has_prompt & no_room, TraceEnd.BUDGET, TraceEnd.RUNNING)),
        )
        choose = lambda new, old: jnp.where(begins.reshape(-1, *[1] * (old.ndim - 1)), new, old)  # noqa: E731
        zero = jnp.zeros_like(state.fed)
        first_row = jnp.arange(self.rows)[None, :] == 0
        return state.replace(
            current=jax.tree.map(choose, fresh, state.current),
            active=choose(has_prompt, state.active),
            row_trace=choose(jnp.where(first_row & has_prompt[:, None], 0, -1), state.row_trace),
            fed=choose(zero, state.fed),
            decoding=choose(jnp.arange(self.traces)[None, :] == 0, state.decoding),
            pulled=choose(zero, state.pulled),
            waits_for=choose(0, state.waits_for),
            lexer=choose(zero, state.lexer),
            tag_start=choose(zero, state.tag_start),
            inside=choose(zero, state.inside),
            open_fork=choose(0, state.open_fork),
        )

    # The device's side.

    def _on_each_device(self, *arguments: Any, read_length: int) -> State:
        """`_loop`, on every device for its own slots: no device waits for another, not even to learn that it is done.

        Only the tensor axis stays in the partitioner's hands.
        """
        loop = partial(self._loop, read_length=read_length)
        if self.mesh is None:
            return loop(*arguments)
        by_slot, whole = P(ROWS), P()
        return jax.shard_map(
            loop,
            mesh=self.mesh,
            in_specs=(whole, by_slot, by_slot, whole, whole, whole),
            out_specs=by_slot,
            axis_names=set(ROWS),
            check_vma=False,
        )(*arguments)

    def _loop(
        self,
        params: Any,
        state: State,
        queue: Queue,
        key: Key[Array, ""],
        temperature: Float[Array, ""],
        steps: Int[Array, ""],
        read_length: int,
    ) -> State:
        """Steps until every slot is idle, or a row outgrows `read_length`, or so many steps are done."""
        until = state.engine_steps[0] + steps

        def goes_on(state: State) -> Array:
            longest = jnp.max(jnp.where(state.active[:, None], state.current.known, 0))
            fits = (longest + self.limits.feed_width <= read_length) | (read_length >= self.limits.context)
            return jnp.any(state.active) & fits & (state.engine_steps[0] < until)

        def step(width: int, state: State) -> State:
            with jax.named_scope(step_scope(width)):
                return self.step(params, state, queue.episodes, key, temperature, read_length, width)

        def until_one_is_over(state: State) -> State:
            # Loops of their own: what begins and ends an episode need not run at every step, and a step is wide or
            # narrow. (A `lax.cond` would copy the cache.)
            state = self._prefill(params, state, queue)
            for width in sorted({1, self.limits.feed_width}, reverse=True):
                takes = lambda s, wide=width > 1: goes_on(s) & ~jnp.any(self._over(s)) & (self.step.is_wide(s) == wide)  # noqa: E731
                state = jax.lax.while_loop(takes, partial(step, width), state)
            return self._next_episodes(state, queue.lengths)

        params = self.model.prepare(params)
        return jax.lax.while_loop(goes_on, until_one_is_over, state)

    def _prefill(self, params: Any, state: State, queue: Queue) -> State:
        """Long prompts that nothing has been fed of yet: all but their last token, at once."""
        if state.kept is None:
            return state
        known = state.current.known[:, 0]
        begins = state.active & (state.fed[:, 0] == 0) & (known >= self.limits.prefill)
        begins &= state.current.end[:, 0] == TraceEnd.RUNNING
        rows = self.step.buffer_row(state, jnp.zeros_like(state.place))
        tokens = state.tokens.at[rows].get(mode="clip")[:, : state.kept.length]
        number = of_prompt(queue.prompts, state.place)
        kept, cache = prefill.begin(self.model, params, state.kept, state.cache, begins, number, tokens)
        fed = state.fed.at[:, 0].set(jnp.where(begins, known - 1, state.fed[:, 0]))
        return state.replace(kept=kept, cache=cache, fed=fed)

    def _over(self, state: State) -> Bool[Array, "S"]:
        """Slots whose episode is over: its organizer has ended, and its workers have come up to the same step."""
        now = state.current
        # A worker that was forked at the very last step has nothing to decode, but its prompt belongs to the record.
        worker_runs = (now.fork_at > 0) & (now.end == TraceEnd.RUNNING)
        worker_runs &= (now.clock < now.clock[:, :1]) | ~state.decoding
        return state.active & (now.end[:, 0] != TraceEnd.RUNNING) & ~jnp.any(worker_runs[:, 1:], axis=1)

    def _next_episodes(self, state: State, lengths: Int[Array, "Q"]) -> State:
        """Files away the episodes that are over and gives their slots the next prompts of the queue."""
        over = self._over(state)
        done = jnp.where(over, state.place, len(lengths))
        finished = jax.tree.map(lambda old, new: old.at[done].set(new, mode="drop"), state.finished, state.current)
        place = jnp.where(over, jnp.max(state.place) + jnp.cumsum(over), state.place)  # prompts are taken in order
        state = state.replace(finished=finished, place=place)
        return self._begin(state, over, jnp.where(place < len(lengths), of_prompt(lengths, place), 0))


def _seen(state: State) -> tuple[Bool[Array, ""], Int[Array, ""], Int[Array, "S"]]:
    longest = jnp.max(jnp.where(state.active[:, None], state.current.known, 0))
    return jnp.any(state.active), longest, state.engine_steps


def _counted(shards: int, state: State) -> tuple[Array, Array, Array]:
    """Engine steps, sampled tokens, and prompts read at once, on all devices together."""
    read = jnp.zeros((1,), jnp.int32) if state.kept is None else jnp.max(state.kept.read.reshape(shards, -1), axis=1)
    return jnp.max(state.engine_steps), jnp.sum(state.sampled_tokens), jnp.sum(read)
