"""The engine: fork-join episodes decoded inside one jitted loop.

Rows. A batch has S slots of A agents, R = S * A rows. Row (s, 0) is the organizer of the episode in slot s, the others
are its workers. A slot works through a queue of Q prompts, one episode after the other, so that the batch stays full;
nothing that an episode does touches another slot, so slots are sharded over the data axes without any collective.

Traces. Trace 0 of an episode is the organizer, trace i the worker of FORK-i. Tokens belong to traces, the KV cache to
rows: a worker's row is free again when the worker ends.

Known and fed. A trace has *known* tokens, of which the first few are *fed* (are in the KV cache). Prompts, sub-queries
and joined text are simply known tokens that are not fed yet. One step of the loop:

    feed     every row feeds its next known tokens to the transformer
    sample   a row whose known tokens are all fed, and that waits for nothing, samples one token more
    react    the automaton says which rows completed a tag; fork, join, return, answer, errors, budgets
    pull     rows that take text from another trace append what can be read by now: a worker its sub-query while the
             organizer still writes it, an organizer at a Join the takeaways while the worker still writes them

Between steps, when one is over, an episode hands its slot to the next prompt.

Time. Each trace carries its own clock, in decoded tokens (the paper's l_i): a worker's starts at its `</FORK-i>`, an
organizer's is set to max(own, worker's) by a Join. What an episode contains thus does not depend on how the engine
schedules it: when an organizer has ended at T, running workers decode up to step T, and what is stamped later is cut.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from asyncthink_jax.parallel.sharding import ROWS, cache_spec, replicated, row_spec
from asyncthink_jax.protocol.automaton import TokenAutomaton
from asyncthink_jax.protocol.grammar import FormatError, Grammar, Tag
from asyncthink_jax.rollout import prefill
from asyncthink_jax.rollout.constrain import Constraint
from asyncthink_jax.rollout.record import ANSWER, BUDGET, FORMAT_ERROR, RETURN, RUNNING, Rollout
from asyncthink_jax.rollout.sampling import EVERYTHING, Sampling, sample, token_uniforms
from asyncthink_jax.rollout.state import (
    IN_ANSWER,
    IN_FORK,
    IN_RETURN,
    PLAIN,
    DecodingModel,
    Limits,
    Queue,
    State,
    Where,
    add_at,
    at,
    blank_episodes,
    set_at,
    this_turn,
)


class Engine:
    """A compiled rollout for one grammar, tokenizer, model and set of limits.

    Args:
        model: what decodes.
        grammar: pool capacity (A) and number of fork ids.
        automaton: the tag automaton lifted to the tokenizer's vocabulary.
        worker_prefix, worker_suffix: tokens around the sub-query in a worker's prompt. The suffix may not be empty: it
            is what a worker whose sub-query is complete feeds to sample its first token.
        close_join: for each id 1..max_forks the tokens of `</JOIN-i>`.
        limits: static sizes.
        eos_id: a token that ends a trace, or None.
        mesh: slots and rows are split over its data and fsdp axes; None = one device.
        sampling: what changes the distribution beside the temperature.
        constrain: only tokens that make no format error are sampled.

    Raises:
        ValueError: if a prompt, the suffix or `limits.prefill` can't be used, or the vocabulary can't be constrained.
    """

    def __init__(
        self,
        model: DecodingModel,
        grammar: Grammar,
        automaton: TokenAutomaton,
        worker_prefix: list[int],
        worker_suffix: list[int],
        close_join: dict[int, list[int]],
        limits: Limits,
        eos_id: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
        sampling: Sampling = EVERYTHING,
        constrain: bool = False,
    ):
        if not worker_suffix:
            raise ValueError("the worker prompt needs at least one token after the sub-query; its suffix is empty")
        if limits.prefill and model.prefill is None:
            raise ValueError("this model can't read a prompt at once: set Limits.prefill (rollout.prefill) to 0")
        self.model, self.grammar, self.limits, self.mesh, self.sampling = model, grammar, limits, mesh, sampling
        self.agents, self.traces = grammar.capacity, grammar.max_forks + 1
        self.shards = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ROWS)
        self.eos_id = -1 if eos_id is None else eos_id
        self.automaton = {f.name: jnp.asarray(getattr(automaton, f.name)) for f in dataclasses.fields(automaton)}
        self.constraint = Constraint(grammar, automaton, eos_id) if constrain else None
        self.prefix = jnp.asarray(worker_prefix or [0], jnp.int32)
        self.suffix = jnp.asarray(worker_suffix, jnp.int32)
        self.prefix_length, self.suffix_length = len(worker_prefix), len(worker_suffix)
        width = max([len(tokens) for tokens in close_join.values()] + [1])
        table = np.zeros((self.traces, width), np.int32)
        lengths = np.zeros(self.traces, np.int32)
        for i, tokens in close_join.items():
            table[i, : len(tokens)] = tokens
            lengths[i] = len(tokens)
        self.close_join, self.close_join_length = jnp.asarray(table), jnp.asarray(lengths)
        self._advance = jax.jit(self._on_each_device, static_argnames="read_length", donate_argnums=1)
        self._start = jax.jit(self._initial, static_argnames=("rounds", "prompt_length"))

    # The host's side: fill the queues, run until every queue is empty.

    def run(
        self,
        params: Any,
        prompts: list[list[int]],
        key: Key[Array, ""],
        temperature: float,
        episode_ids: list[int] | None = None,
        rounds: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rollout:
        """Decodes one episode for each prompt.

        Args:
            params: the model's parameters, in the rollout layout.
            prompts: token ids; episode n is the n-th of them.
            key: seed of all random numbers of this call.
            temperature: of the sampling; 0 is greedy.
            episode_ids: what the random numbers of each episode are keyed by; default 0, 1, 2, ..
            rounds: length of a slot's queue; default just enough. Calls with equal rounds share their compilation.
            progress: called now and then with (engine steps, episodes finished).
        """
        slots, length = self.limits.slots, self.limits.context
        longest = max(map(len, prompts), default=0)
        if longest > length or min(map(len, prompts), default=1) == 0:
            raise ValueError(f"a prompt must have 1 to {length} tokens (rollout.context); got 0 or {longest}")
        rounds = max(rounds or 1, -(-len(prompts) // slots))
        table = np.zeros((slots, rounds, length), np.int32)
        queue = Queue(*(np.zeros((slots, rounds), np.int32) for _ in Queue._fields))
        numbers: dict[tuple[int, ...], int] = {}  # equal prompts have equal numbers
        for n, prompt in enumerate(prompts):
            # Episode n runs in slot n % slots, as that slot's (n // slots)-th.
            place = n % slots, n // slots
            table[*place, : len(prompt)] = prompt
            queue.lengths[place] = len(prompt)
            queue.episodes[place] = n if episode_ids is None else episode_ids[n]
            queue.prompts[place] = numbers.setdefault(tuple(prompt), len(numbers))
        prefills = 0 < self.limits.prefill <= longest
        state = self._start(
            self._place(table),
            self._place(queue.lengths),
            rounds=rounds,
            prompt_length=min(-(-longest // prefill.ROUND_UP) * prefill.ROUND_UP, length) if prefills else 0,
        )
        queue = Queue(*(self._place(x) for x in queue))
        temperature = jnp.asarray(temperature, jnp.float32)
        while bool(jnp.any(state.active)):
            longest = int(jnp.max(jnp.where(state.active[:, None], state.current.known, 0)))
            state = self._advance(params, state, queue, key, temperature, read_length=self._bucket(longest))
            if progress is not None:
                progress(int(jnp.max(state.engine_steps)), int(jnp.sum(state.turn)))
        prefilled = 0 if state.kept is None else int(jnp.sum(jnp.max(state.kept.read.reshape(self.shards, -1), axis=1)))
        return Rollout.from_state(self, jax.device_get(state.replace(cache=None, kept=None)), prompts, prefilled)

    def _place(self, x: np.ndarray) -> Array:
        return jnp.asarray(x) if self.mesh is None else jax.device_put(x, row_spec(self.mesh))

    def _bucket(self, longest: int) -> int:
        """How many cache positions attention reads while no row is longer: half or all, each compiled once.

        Finer buckets cost more than they save on CPU, where reading a part of the cache copies that part.
        """
        half = self.limits.context // 2
        return half if longest + self.limits.feed_width + half // 4 <= half else self.limits.context

    def _initial(self, prompts: Array, lengths: Array, rounds: int, prompt_length: int) -> State:
        slots, traces, length = self.limits.slots, self.traces, self.limits.context
        rows = slots * rounds * traces
        tokens = jnp.zeros((slots, rounds, traces, length), jnp.int32).at[:, :, 0].set(prompts).reshape(rows, length)
        blank = jnp.zeros((slots, traces), jnp.int32)
        entries = self.shards * max(1, slots // self.shards // 2)  # a group has several samples: half of it would do
        state = State(
            cache=self.model.init_cache(slots * self.agents, length),
            kept=prefill.nothing_kept(self.model, entries, prompt_length) if prompt_length else None,
            tokens=tokens,
            sampled=jnp.zeros((rows, length), bool),
            logprobs=jnp.zeros((rows, length), jnp.float32),
            model_logprobs=jnp.zeros((rows, length), jnp.float32),
            steps=jnp.zeros((rows, length), jnp.int32),
            finished=blank_episodes((slots, rounds), traces),
            current=blank_episodes((slots,), traces),
            turn=jnp.zeros((slots,), jnp.int32),
            active=jnp.zeros((slots,), bool),
            row_trace=jnp.zeros((slots, self.agents), jnp.int32),
            fed=blank,
            decoding=blank.astype(bool),
            pulled=blank,
            waits_for=jnp.zeros((slots,), jnp.int32),
            lexer=blank,
            tag_start=blank,
            context=blank,
            context_id=jnp.zeros((slots,), jnp.int32),
            engine_steps=jnp.zeros((slots,), jnp.int32),
            sampled_tokens=jnp.zeros((slots,), jnp.int32),
        )
        state = self._begin(state, jnp.ones((slots,), bool), lengths)
        return state if self.mesh is None else jax.lax.with_sharding_constraint(state, self._shardings(state))

    def _shardings(self, state: State) -> State:
        by_slot, whole, cache = row_spec(self.mesh), replicated(self.mesh), cache_spec(self.mesh)
        return jax.tree.map(lambda x: cache if x.ndim == 4 else by_slot if x.ndim else whole, state)

    def _begin(self, state: State, begins: Bool[Array, "S"], lengths: Int[Array, "S Q"]) -> State:
        """Starts the prompt number `turn` in the slots that begin; a slot without a further prompt goes idle."""
        prompt = this_turn(lengths, state.turn)[:, 0]
        has_prompt = (state.turn < lengths.shape[1]) & (prompt > 0)
        fresh = blank_episodes(begins.shape, self.traces)
        no_room = (prompt >= self.limits.context) | (self.limits.organizer_budget == 0)
        fresh = fresh.replace(
            known=fresh.known.at[:, 0].set(jnp.where(has_prompt, prompt, 0)),
            end=fresh.end.at[:, 0].set(jnp.where(has_prompt & no_room, BUDGET, RUNNING)),
        )
        choose = lambda new, old: jnp.where(begins.reshape(-1, *[1] * (old.ndim - 1)), new, old)  # noqa: E731
        zero = jnp.zeros_like(state.fed)
        first_row = jnp.arange(self.agents)[None, :] == 0
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
            context=choose(zero, state.context),
            context_id=choose(0, state.context_id),
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
            in_specs=(whole, by_slot, by_slot, whole, whole),
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
        read_length: int,
    ) -> State:
        """Steps until every slot is idle, or a row outgrows `read_length`."""

        def goes_on(state: State) -> Array:
            longest = jnp.max(jnp.where(state.active[:, None], state.current.known, 0))
            fits = (longest + self.limits.feed_width <= read_length) | (read_length >= self.limits.context)
            return jnp.any(state.active) & fits

        def step(width: int, state: State) -> State:
            state, logits, ready = self._feed(params, state, queue.episodes, read_length, width)
            state, token, position = self._sample(state, logits, ready, queue.episodes, key, temperature)
            return self._pull(self._react(state, ready, token, position))

        def until_one_is_over(state: State) -> State:
            # Loops of their own: what begins and ends an episode need not run at every step, and a step is wide or
            # narrow. (A `lax.cond` would copy the cache.)
            state = self._prefill(params, state, queue)
            for width in sorted({1, self.limits.feed_width}, reverse=True):
                takes = lambda s, wide=width > 1: goes_on(s) & ~jnp.any(self._over(s)) & (self._is_wide(s) == wide)  # noqa: E731
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
        begins &= state.current.end[:, 0] == RUNNING
        rows = self._buffer_row(state, jnp.zeros_like(state.turn))
        tokens = state.tokens.at[rows].get(mode="clip")[:, : state.kept.length]
        number = this_turn(queue.prompts, state.turn)[:, 0]
        kept, cache = prefill.begin(self.model, params, state.kept, state.cache, begins, number, tokens)
        fed = state.fed.at[:, 0].set(jnp.where(begins, known - 1, state.fed[:, 0]))
        return state.replace(kept=kept, cache=cache, fed=fed)

    def _buffer_row(self, state: State, trace: Int[Array, "S ..."]) -> Int[Array, "S ..."]:
        """Row of `state.tokens` that holds a trace of the episode in flight; out of range (so dropped) for trace -1."""
        slots, rounds = state.finished.used.shape[:2]
        first = (jnp.arange(slots) * rounds + jnp.minimum(state.turn, rounds - 1)) * self.traces
        first = first.reshape(-1, *[1] * (trace.ndim - 1))
        return jnp.where(trace < 0, slots * rounds * self.traces, first + trace)

    def _readable(self, state: State) -> Int[Array, "S T"]:
        """How far each running trace may be read by another: a tag that may be in progress is held back."""
        return jnp.where(self.automaton["in_tag"][state.lexer], state.tag_start, state.current.known)

    def _pull(self, state: State) -> State:
        now, width, length = state.current, self.limits.feed_width, self.limits.context
        trace = jnp.arange(self.traces)[None, :]
        readable = self._readable(state)
        # Workers: prefix, sub-query, suffix. Organizers at a Join: takeaways, closing tag.
        is_worker = trace > 0
        row_length = jnp.where(is_worker, self.limits.worker_length, length)
        closed = now.fork_at > 0
        sub_length = jnp.where(closed, now.sub_end, readable[:, :1]) - now.sub_start
        joined = state.waits_for[:, None]
        ended = at(now.end, joined) != RUNNING
        returned = at(now.return_start, joined)
        read_to = jnp.where(ended, at(now.return_end, joined), at(readable, joined))
        takeaways = jnp.where(returned >= 0, read_to - returned, 0)
        before = jnp.where(is_worker, self.prefix_length, 0)
        # Where one token ends the opening tag and starts the closing one, the text between them has length -1.
        body = jnp.maximum(jnp.where(is_worker, sub_length, takeaways), 0)
        complete = jnp.where(is_worker, closed, ended)
        after = jnp.where(is_worker, self.suffix_length, self.close_join_length[joined])
        available = before + body + jnp.where(complete, after, 0)
        takes = jnp.where(is_worker, now.used, joined > 0) & ~state.decoding & (now.end == RUNNING)
        room = row_length - now.known
        count = jnp.where(takes, jnp.clip(jnp.minimum(available - state.pulled, room), 0, width), 0)

        column = jnp.arange(width)[None, None, :]
        k = state.pulled[:, :, None] + column
        source = self._buffer_row(state, jnp.where(is_worker, 0, joined))
        offset = jnp.where(is_worker, now.sub_start, returned)[:, :, None] + k - before[:, :, None]
        text = state.tokens[source[:, :, None], jnp.clip(offset, 0, length - 1)]
        prefix = self.prefix[jnp.clip(k, 0, self.prefix.size - 1)]
        tail = jnp.clip(k - (before + body)[:, :, None], 0)
        suffix = self.suffix[jnp.minimum(tail, self.suffix_length - 1)]
        closing = self.close_join[joined[:, :, None], jnp.minimum(tail, self.close_join.shape[1] - 1)]
        ending = jnp.where(is_worker[:, :, None], suffix, closing)
        new = jnp.where(k < before[:, :, None], prefix, jnp.where(k < (before + body)[:, :, None], text, ending))
        target = jnp.where(
            column < count[:, :, None],
            self._buffer_row(state, jnp.broadcast_to(trace, k.shape[:2]))[:, :, None],
            state.tokens.shape[0],
        )
        tokens = state.tokens.at[target, now.known[:, :, None] + column].set(new, mode="drop")

        pulled, known = state.pulled + count, now.known + count
        full = known >= row_length
        done = takes & complete & ((pulled >= before + body + after) | full)
        budget = jnp.where(is_worker, self.limits.worker_budget, self.limits.organizer_budget)
        spent = full | (now.decoded >= budget)
        end = jnp.where(done & spent, BUDGET, now.end)
        clock = jnp.where(done & ~is_worker, jnp.maximum(now.clock, at(now.clock, joined)), now.clock)
        now = now.replace(
            known=known, end=end, clock=clock, return_end=jnp.where(done & full & is_worker, 0, now.return_end)
        )
        now = now.replace(return_start=jnp.where(done & full & is_worker, 0, now.return_start))
        return state.replace(
            tokens=tokens,
            current=now,
            pulled=pulled,
            decoding=state.decoding | done,
            waits_for=jnp.where(done[:, 0], 0, state.waits_for),
            row_trace=jnp.where(
                (state.row_trace > 0) & (at(end, jnp.maximum(state.row_trace, 0)) != RUNNING), -1, state.row_trace
            ),
        )

    def _backlog(self, state: State) -> Int[Array, "S A"]:
        """Known tokens of each row that are not fed yet."""
        trace = jnp.maximum(state.row_trace, 0)
        works = (state.row_trace >= 0) & (at(state.current.end, trace) == RUNNING)
        return jnp.where(works, at(state.current.known, trace) - at(state.fed, trace), 0)

    def _is_wide(self, state: State) -> Bool[Array, ""]:
        """Whether the next step feeds several tokens a row: enough of them wait beyond those of a narrow step."""
        if self.limits.feed_width == 1:
            return jnp.asarray(False)
        backlog = self._backlog(state)
        waiting = jnp.sum(jnp.maximum(jnp.minimum(backlog, self.limits.feed_width) - 1, 0))
        return waiting > self.limits.wide_at * jnp.sum(backlog > 0)

    def _feed(
        self, params: Any, state: State, episode_ids: Array, read_length: int, width: int
    ) -> tuple[State, Array, Array]:
        """Feeds every row its next known tokens, up to `width`. Returns logits [R, V], and the rows that may sample."""
        now = state.current
        trace = jnp.maximum(state.row_trace, 0)
        fed, backlog = at(state.fed, trace), self._backlog(state)
        episode = this_turn(episode_ids, state.turn)
        where = Where(
            jnp.broadcast_to(episode, trace.shape).reshape(-1), trace.reshape(-1), at(now.decoded, trace).reshape(-1)
        )
        column = jnp.arange(width)[None, None, :]
        position = fed[:, :, None] + column
        tokens = state.tokens[
            jnp.minimum(self._buffer_row(state, trace), state.tokens.shape[0] - 1)[:, :, None],
            jnp.minimum(position, self.limits.context - 1),
        ]
        position = jnp.where(column < backlog[:, :, None], position, -1)
        last = jnp.clip(backlog, 1, width) - 1
        rows = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        logits, cache = self.model.logits(
            params, state.cache, rows(tokens), rows(position), rows(last), read_length, where
        )
        count = jnp.minimum(backlog, width)
        ready = (backlog > 0) & (count == backlog) & at(state.decoding, trace)
        # An episode whose organizer has ended runs its workers up to the organizer's step and no further.
        over = now.end[:, :1] != RUNNING
        ready &= ~over | (at(now.clock, trace) < now.clock[:, :1])
        fed = add_at(state.fed, state.row_trace, count)
        return state.replace(cache=cache, fed=fed), logits, ready

    def _sample(
        self, state: State, logits: Array, ready: Array, episode_ids: Array, key: Array, temperature: Array
    ) -> tuple[State, Array, Array]:
        """Appends a token to every ready row's trace. Returns the tokens and their positions, [S, A]."""
        now = state.current
        trace = jnp.maximum(state.row_trace, 0)
        position = at(now.known, trace)
        episode = this_turn(episode_ids, state.turn)
        flat = lambda x: jnp.broadcast_to(x, trace.shape).reshape(-1)  # noqa: E731
        uniforms = token_uniforms(key, flat(episode), flat(trace), flat(position))
        allowed = decoded = None
        if self.constraint is not None:
            inside, joined = at(state.context, trace), now.join_at > 0
            allowed = self.constraint.allowed(trace, at(state.lexer, trace), inside, state.context_id, now.used, joined)
        if self.sampling.repetition_penalty != 1:
            known = self._buffer_row(state, trace).reshape(-1)
            decoded = (state.tokens.at[known].get(mode="clip"), state.sampled.at[known].get(mode="clip"))
        drawn = sample(logits, uniforms, temperature, self.sampling, allowed, decoded)
        token, logprob, model_logprob = (x.reshape(trace.shape) for x in drawn)

        chosen = jnp.where(ready, state.row_trace, -1)
        place = (self._buffer_row(state, chosen), position)
        now = now.replace(
            known=add_at(now.known, chosen, 1),
            decoded=add_at(now.decoded, chosen, 1),
            clock=add_at(now.clock, chosen, 1),
        )
        state = state.replace(
            current=now,
            tokens=state.tokens.at[place].set(token, mode="drop"),
            sampled=state.sampled.at[place].set(True, mode="drop"),
            logprobs=state.logprobs.at[place].set(logprob, mode="drop"),
            model_logprobs=state.model_logprobs.at[place].set(model_logprob, mode="drop"),
            steps=state.steps.at[place].set(at(now.clock, trace), mode="drop"),
            engine_steps=state.engine_steps + 1,
            sampled_tokens=state.sampled_tokens + jnp.sum(ready, axis=1),
        )
        return state, token, position

    def _react(self, state: State, ready: Array, token: Array, position: Array) -> State:
        """Follows the protocol: what `protocol/grammar.py` decides, for all rows at once."""
        tables, limits = self.automaton, self.limits
        trace = jnp.maximum(state.row_trace, 0)
        chosen = jnp.where(ready, state.row_trace, -1)
        before = at(state.lexer, trace)
        kind = tables["token_class"][token]
        tag = jnp.where(ready, tables["tag"][before, kind], Tag.NONE)
        tag_id = tables["tag_id"][before, kind]
        # Where the tag that this token completes started, and where one that it leaves unfinished did.
        started = at(state.tag_start, trace)
        begins, after = tables["begins"][before, kind], tables["next_state"][before, kind]
        completed_start = jnp.where(begins, position, started)
        begins = jnp.where(tag == Tag.NONE, begins, tables["in_tag"][after])
        state = state.replace(
            lexer=set_at(state.lexer, chosen, after),
            tag_start=set_at(state.tag_start, chosen, jnp.where(begins, position, started)),
        )
        is_eos = ready & (token == self.eos_id)

        # Organizers.
        now = state.current
        own_tag, own_id, own_start, own_at = tag[:, 0], tag_id[:, 0], completed_start[:, 0], position[:, 0] + 1
        ids = jnp.arange(self.traces)[None, :]
        one = ids == own_id[:, None]
        used, joined = now.used, now.join_at > 0
        of = lambda flags: jnp.any(flags & one, axis=1)  # noqa: E731
        inside, inside_id = state.context[:, 0], state.context_id
        plain = inside == PLAIN
        closes_fork = (inside == IN_FORK) & (own_tag == Tag.END_FORK) & (own_id == inside_id)
        closes_answer = (inside == IN_ANSWER) & (own_tag == Tag.END_ANSWER)
        active_workers = jnp.sum(used & ~joined, axis=1)
        is_fork, is_join = own_tag == Tag.FORK, own_tag == Tag.JOIN
        error = jnp.select(
            [
                own_tag == Tag.NONE,
                closes_fork | closes_answer,
                ~plain,
                (own_tag == Tag.RETURN) | (own_tag == Tag.END_RETURN),
                (own_tag == Tag.END_FORK) | (own_tag == Tag.END_JOIN) | (own_tag == Tag.END_ANSWER),
                own_tag == Tag.ANSWER,
                own_id == 0,
                is_fork & of(used),
                is_fork & (active_workers >= self.agents - 1),
                is_join & ~of(used),
                is_join & of(joined),
            ],
            [
                FormatError.NONE,
                FormatError.NONE,
                FormatError.NESTED_TAG,
                FormatError.WRONG_ROLE,
                FormatError.STRAY_TAG,
                FormatError.NONE,
                FormatError.ID_OUT_OF_RANGE,
                FormatError.FORK_TWICE,
                FormatError.POOL_FULL,
                FormatError.JOIN_UNKNOWN,
                FormatError.JOIN_TWICE,
            ],
            FormatError.NONE,
        )
        fine = error == FormatError.NONE
        forks, joins = fine & plain & is_fork, fine & plain & is_join
        opens_answer = fine & plain & (own_tag == Tag.ANSWER)
        spent = ready[:, 0] & ~closes_answer & fine
        spent &= (now.decoded[:, 0] >= limits.organizer_budget) | (now.known[:, 0] >= limits.context) | is_eos[:, 0]
        # A Join that is the last token of the budget is still carried out, and the trace ends after it: see _pull.
        own_end = jnp.select([closes_answer, ~fine, spent & ~joins], [ANSWER, FORMAT_ERROR, BUDGET], now.end[:, 0])
        own_error = jnp.where(fine, now.error[:, 0], error)  # kept while workers run on to the organizer's step
        closed = closes_fork[:, None] & (ids == inside_id[:, None])
        opened = forks[:, None] & one
        now = now.replace(
            used=used | opened,
            sub_start=jnp.where(opened, own_at[:, None], now.sub_start),
            sub_end=jnp.where(closed, own_start[:, None], now.sub_end),
            fork_at=jnp.where(closed, now.decoded[:, :1], now.fork_at),
            join_at=jnp.where(joins[:, None] & one, now.decoded[:, :1], now.join_at),
            clock=jnp.where(closed, now.clock[:, :1], now.clock),
        )
        context = jnp.select([forks, opens_answer, closes_fork | closes_answer], [IN_FORK, IN_ANSWER, PLAIN], inside)
        # The forked worker takes the first idle row of the episode. There is one: a pool that is full was an error.
        idle = state.row_trace < 0
        takes_row = forks[:, None] & idle & (jnp.cumsum(idle, axis=1) == 1)
        row_trace = jnp.where(takes_row, own_id[:, None], state.row_trace)

        # Workers.
        rows = jnp.arange(self.agents)[None, :] > 0
        worker = ready & rows
        within = at(state.context, trace)
        opens = worker & (tag == Tag.RETURN) & (within == PLAIN)
        closes = worker & (tag == Tag.END_RETURN) & (within == IN_RETURN)
        wrong = worker & (tag != Tag.NONE) & ~opens & ~closes
        worker_error = jnp.where(
            within == IN_RETURN,
            FormatError.NESTED_TAG,
            jnp.where(tag == Tag.END_RETURN, FormatError.STRAY_TAG, FormatError.WRONG_ROLE),
        )
        decoded, known = at(now.decoded, trace), at(now.known, trace)
        out = worker & ~closes & ~wrong
        out &= (decoded >= limits.worker_budget) | (known >= limits.worker_length) | is_eos
        ends = closes | wrong | out
        why = jnp.select([closes, wrong], [RETURN, FORMAT_ERROR], BUDGET)
        stop_reading = jnp.where(closes | wrong, completed_start, jnp.where(is_eos, position, known))
        ended = jnp.where(ends, trace, -1)
        return_start = set_at(now.return_start, jnp.where(opens, trace, -1), position + 1)
        now = now.replace(
            end=set_at(now.end, ended, why).at[:, 0].set(own_end),
            error=set_at(now.error, jnp.where(wrong, trace, -1), worker_error).at[:, 0].set(own_error),
            return_start=return_start,
            return_end=set_at(now.return_end, ended, stop_reading),
        )
        return state.replace(
            current=now,
            context=set_at(state.context, jnp.where(opens, trace, -1), IN_RETURN).at[:, 0].set(context),
            context_id=jnp.where(forks, own_id, inside_id),
            lexer=state.lexer.at[:, 0].set(jnp.where(joins, 0, state.lexer[:, 0])),  # no tag spans inserted text
            decoding=state.decoding.at[:, 0].set(state.decoding[:, 0] & ~joins),
            pulled=state.pulled.at[:, 0].set(jnp.where(joins, 0, state.pulled[:, 0])),
            waits_for=jnp.where(joins, own_id, state.waits_for),
            row_trace=jnp.where(ends, -1, row_trace),
        )

    def _over(self, state: State) -> Bool[Array, "S"]:
        """Slots whose episode is over: its organizer has ended, and its workers have come up to the same step."""
        now = state.current
        # A worker that was forked at the very last step has nothing to decode, but its prompt belongs to the record.
        worker_runs = (now.fork_at > 0) & (now.end == RUNNING)
        worker_runs &= (now.clock < now.clock[:, :1]) | ~state.decoding
        return state.active & (now.end[:, 0] != RUNNING) & ~jnp.any(worker_runs[:, 1:], axis=1)

    def _next_episodes(self, state: State, lengths: Array) -> State:
        """Files away the episodes that are over and gives their slots the next prompts."""
        over = self._over(state)
        here = over[:, None] & (jnp.arange(lengths.shape[1])[None, :] == state.turn[:, None])
        keep = lambda new, old: jnp.where(here.reshape(*here.shape, *[1] * (old.ndim - 2)), new[:, None], old)  # noqa: E731
        state = state.replace(finished=jax.tree.map(keep, state.current, state.finished), turn=state.turn + over)
        return self._begin(state, over, lengths)
