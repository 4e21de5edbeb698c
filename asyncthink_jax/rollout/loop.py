"""The compiled loop: fork-join episodes decoded on the device.

Rows. A batch has S slots of A rows, R = S * A. Row (s, 0) is that of the organizer of the episode in slot s, the others
are for its workers: as many as the pool has, or fewer, and then a forked worker waits for one. Slots are sharded over
the data axes, and nothing that an episode does touches another slot. A device has a queue of prompts, of which each of
its slots takes the next when its episode is over: so the batch stays full however long episodes are, and there is no
collective.

Traces. Trace 0 of an episode is the organizer, trace i the worker of FORK-i. Tokens belong to traces, the KV cache to
rows: a worker's row is free again when the worker ends.

Places. The tokens and the record of an episode stand at a place of its device, from the prompt to the end; there are Q
places on all devices together. The host says in which order the places are taken (`state.Queue`), and may use a place
again once it has read what stands there (`rollout/session.py`).

`rollout/step.py` does one step of all rows. Between steps, when one is over, an episode hands its slot to the next
prompt. The host is asked nothing meanwhile.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from asyncthink_jax.parallel.sharding import ROWS, cache_spec, replicated, row_spec
from asyncthink_jax.protocol.wire import Wire
from asyncthink_jax.rollout import prefill
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.rollout.sampling import EVERYTHING, Sampling
from asyncthink_jax.rollout.state import DecodingModel, Limits, Queue, State, TraceEnd, blank_episodes
from asyncthink_jax.rollout.step import Step


def step_scope(width: int) -> str:
    """Scope name, in a compiled program, of a step that feeds up to `width` tokens per row."""
    return f"step_{width}"


class Loop:
    """The programs of one model, one protocol in tokens and one set of limits.

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
        self.start = jax.jit(self._start, static_argnames="prompt_length")
        self.admit = jax.jit(self._admit, donate_argnums=0)
        self.advance = jax.jit(self._advance, static_argnames="read_length", donate_argnums=1)
        # What the host asks of all slots; with several processes it sees the slots of its own devices alone.
        whole = None if mesh is None else replicated(mesh)
        self.seen = jax.jit(_seen, out_shardings=whole)
        self.counted = jax.jit(partial(_counted, self.shards), out_shardings=whole)

    def rollout(
        self, prompts: Sequence[Sequence[int]], engine_steps: int, sampled_tokens: int, prefills: int = 0, **arrays: Any
    ) -> Rollout:
        """A Rollout of this loop; `arrays` are its other fields, what is counted is of all slots."""
        return Rollout(
            **arrays,
            prompt_lengths=np.array([len(prompt) for prompt in prompts], int),
            worker_frame=self.wire.worker_frame,
            worker_length=self.limits.worker_length,
            agents=self.agents,
            engine_steps=engine_steps,
            occupancy=sampled_tokens / max(1, engine_steps * self.limits.slots * self.rows),
            prefills=prefills,
        )

    def _start(self, admitted: Bool[Array, "Q"], prompts: Int[Array, "Q L"], queue: Queue, prompt_length: int) -> State:
        """The state before the first step; prompts of up to `prompt_length` tokens can be read at once (0 = none)."""
        slots, traces, length = self.limits.slots, self.traces, self.limits.context
        room = len(admitted)
        blank = jnp.zeros((slots, traces), jnp.int32)
        per_slot = jnp.zeros((slots,), jnp.int32)
        buffer = jnp.zeros((room * traces, length), jnp.int32)
        entries = self.shards * max(1, slots // self.shards // 2)  # a group has several samples: half of it would do
        state = State(
            cache=self.model.init_cache(slots * self.rows, length),
            kept=prefill.nothing_kept(self.model, entries, prompt_length) if prompt_length else None,
            tokens=buffer,
            sampled=buffer.astype(bool),
            logprobs=buffer.astype(jnp.float32),
            steps=buffer,
            finished=blank_episodes((room,), traces),
            filed=jnp.zeros((room,), bool),
            current=blank_episodes((slots,), traces),
            turn=per_slot - 1,
            place=per_slot,
            active=per_slot.astype(bool),
            row_trace=jnp.full((slots, self.rows), -1, jnp.int32),
            fed=blank,
            decoding=blank.astype(bool),
            pulled=blank,
            waits_for=per_slot,
            lexer=blank,
            tag_start=blank,
            inside=blank,
            open_fork=per_slot,
            engine_steps=per_slot,
            sampled_tokens=per_slot,
        )
        if self.mesh is not None:
            state = jax.lax.with_sharding_constraint(state, self.shardings(state))
        return self._admit(state, admitted, prompts, queue)

    def _admit(self, state: State, admitted: Bool[Array, "Q"], prompts: Int[Array, "Q L"], queue: Queue) -> State:
        """Makes the admitted places those of new episodes, which begin where a slot has none."""
        return self._on_each_device(self._admit_own, "ssss", state, admitted, prompts, queue)

    def _admit_own(self, state: State, admitted: Bool[Array, "Q"], prompts: Int[Array, "Q L"], queue: Queue) -> State:
        anew = jnp.repeat(admitted, self.traces)[:, None]
        blank = jnp.zeros((len(admitted), self.traces, prompts.shape[1]), jnp.int32)
        first = blank.at[:, 0].set(prompts).reshape(-1, prompts.shape[1])
        fresh = blank_episodes(admitted.shape, self.traces)
        state = state.replace(
            tokens=jnp.where(anew, first, state.tokens),
            sampled=state.sampled & ~anew,
            logprobs=jnp.where(anew, 0, state.logprobs),
            steps=jnp.where(anew, 0, state.steps),
            finished=jax.tree.map(lambda new, old: jnp.where(admitted[:, None], new, old), fresh, state.finished),
            filed=state.filed & ~admitted,
        )
        return self._next_episodes(state, queue)

    def shardings(self, state: State) -> State:
        """How the arrays of a state are laid out over the mesh."""
        assert self.mesh is not None
        by_slot, whole, cache = row_spec(self.mesh), replicated(self.mesh), cache_spec(self.mesh)
        return jax.tree.map(lambda x: cache if x.ndim == 4 else by_slot if x.ndim else whole, state)

    def _begin(self, state: State, begins: Bool[Array, "S"], prompt: Int[Array, "S"]) -> State:
        """Starts an episode in the slots that begin. `prompt`: its prompt's tokens; with none the slot goes idle."""
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

    def _on_each_device(self, program: Callable[..., State], split: str, *arguments: Any) -> State:
        """Runs a program on every device for its own slots: no device waits for another.

        Only the tensor axis stays in the partitioner's hands. `split` has a letter an argument: "s" = split by slots or
        places, "w" = whole on each device.
        """
        if self.mesh is None:
            return program(*arguments)
        return jax.shard_map(
            program,
            mesh=self.mesh,
            in_specs=tuple(P(ROWS) if letter == "s" else P() for letter in split),
            out_specs=P(ROWS),
            axis_names=set(ROWS),
            check_vma=False,
        )(*arguments)

    def _advance(self, *arguments: Any, read_length: int) -> State:
        return self._on_each_device(partial(self._loop, read_length=read_length), "wsswww", *arguments)

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
        """Runs until no slot has an episode, a row outgrows `read_length`, or `steps` have passed."""
        begun = state.engine_steps[0]

        def goes_on(state: State) -> Array:
            longest = jnp.max(jnp.where(state.active[:, None], state.current.known, 0))
            fits = (longest + self.limits.feed_width <= read_length) | (read_length >= self.limits.context)
            return jnp.any(state.active) & fits & (state.engine_steps[0] - begun < steps)

        def step(width: int, state: State) -> State:
            with jax.named_scope(step_scope(width)):
                return self.step(params, state, queue.episodes, key, temperature, read_length, width)

        def takes(wide: bool, state: State) -> Array:
            return goes_on(state) & ~jnp.any(self._over(state, queue)) & (self.step.is_wide(state) == wide)

        def until_one_is_over(state: State) -> State:
            # Loops of their own: what begins and ends an episode need not run at every step, and a step is wide or
            # narrow. (A `lax.cond` would copy the cache.)
            state = self._prefill(params, state, queue)
            for width in sorted({1, self.limits.feed_width}, reverse=True):
                state = jax.lax.while_loop(partial(takes, width > 1), partial(step, width), state)
            return self._next_episodes(state, queue)

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
        number = queue.prompts[state.place]
        kept, cache = prefill.begin(self.model, params, state.kept, state.cache, begins, number, tokens)
        fed = state.fed.at[:, 0].set(jnp.where(begins, known - 1, state.fed[:, 0]))
        return state.replace(kept=kept, cache=cache, fed=fed)

    def _over(self, state: State, queue: Queue) -> Bool[Array, "S"]:
        """Slots whose episode is over: its organizer has ended, and its workers have come up to the same step.

        Or it was cancelled.
        """
        now = state.current
        # A worker that was forked at the very last step has nothing to decode, but its prompt belongs to the record.
        worker_runs = (now.fork_at > 0) & (now.end == TraceEnd.RUNNING)
        worker_runs &= (now.clock < now.clock[:, :1]) | ~state.decoding
        ended = (now.end[:, 0] != TraceEnd.RUNNING) & ~jnp.any(worker_runs[:, 1:], axis=1)
        return state.active & (ended | queue.cancelled[state.place])

    def _next_episodes(self, state: State, queue: Queue) -> State:
        """Files away the episodes that are over, and gives the next prompts of the queue to the slots without one."""
        over, room = self._over(state, queue), len(queue.order)
        done = jnp.where(over, state.place, room)
        finished = jax.tree.map(lambda old, new: old.at[done].set(new, mode="drop"), state.finished, state.current)
        free = over | ~state.active
        turn = jnp.max(state.turn) + jnp.cumsum(free)  # prompts are taken in order
        begins = free & (turn < queue.submitted[0])
        place = jnp.where(begins, queue.order[turn % room], state.place)
        state = state.replace(
            finished=finished,
            filed=state.filed.at[done].set(True, mode="drop"),
            turn=jnp.where(begins, turn, state.turn),
            place=place,
        )
        return self._begin(state, free, jnp.where(begins, queue.lengths[place], 0))


def _seen(state: State) -> tuple[Bool[Array, ""], Int[Array, ""], Int[Array, "S"], Bool[Array, "Q"]]:
    """Whether a slot has an episode, the most known tokens of one, each slot's engine steps, what has been filed."""
    longest = jnp.max(jnp.where(state.active[:, None], state.current.known, 0))
    return jnp.any(state.active), longest, state.engine_steps, state.filed


def _counted(shards: int, state: State) -> tuple[Array, Array, Array]:
    """Engine steps, sampled tokens, and prompts read at once, on all devices together."""
    read = jnp.zeros((1,), jnp.int32) if state.kept is None else jnp.max(state.kept.read.reshape(shards, -1), axis=1)
    return jnp.max(state.engine_steps), jnp.sum(state.sampled_tokens), jnp.sum(read)
