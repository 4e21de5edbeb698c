"""One step of the engine's loop, for all rows at once: feed, sample, react, pull.

Known and fed. A trace has *known* tokens, of which the first few are *fed* (are in the KV cache). Prompts, sub-queries
and joined text are simply known tokens that are not fed yet.

    feed     every row feeds its next known tokens to the transformer
    sample   a row whose known tokens are all fed, and that waits for nothing, samples one token more
    react    the automaton says which rows completed a tag; fork, join, return, answer, errors, budgets
    pull     rows that take text from another trace append what can be read by now: a worker its sub-query while the
             organizer still writes it, an organizer at a Join the takeaways while the worker still writes them

Time. Each trace carries its own clock, in decoded tokens (the paper's l_i): a worker's starts at its `</FORK-i>`, an
organizer's is set to max(own, worker's) by a Join. What an episode contains thus does not depend on how the engine
schedules it: when an organizer has ended at T, running workers decode up to step T, and what is stamped later is cut.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from asyncthink_jax.protocol.grammar import FormatError, Tag
from asyncthink_jax.protocol.rules import INSIDE_AFTER, VERDICT
from asyncthink_jax.protocol.wire import Wire
from asyncthink_jax.rollout.constrain import Constraint
from asyncthink_jax.rollout.sampling import Sampling, sample, token_uniforms
from asyncthink_jax.rollout.state import (
    DecodingModel,
    Limits,
    State,
    TraceEnd,
    Where,
    add_at,
    at,
    id_states,
    one_hot,
    set_at,
)


class Step:
    """What the steps of a rollout have in common; called, it does one. The arguments are those of `Engine`."""

    def __init__(self, model: DecodingModel, wire: Wire, limits: Limits, sampling: Sampling, constrain: bool):
        self.model, self.limits, self.sampling = model, limits, sampling
        self.agents, self.traces = wire.grammar.capacity, wire.grammar.max_forks + 1
        self.rows = limits.rows_of_slot(self.agents)
        self.stop_ids = sorted(wire.stop_ids)
        tables = wire.automaton
        self.automaton = {f.name: jnp.asarray(getattr(tables, f.name)) for f in dataclasses.fields(tables)}
        self.constraint = Constraint(wire, limits.min_workers) if constrain else None
        self.verdicts, self.inside_after = jnp.asarray(VERDICT), jnp.asarray(INSIDE_AFTER)
        self.prefix = jnp.asarray([*wire.worker_prefix] or [0], jnp.int32)
        self.suffix = jnp.asarray([*wire.worker_suffix], jnp.int32)
        self.prefix_length, self.suffix_length = len(wire.worker_prefix), len(wire.worker_suffix)
        width = max([len(tokens) for tokens in wire.close_join.values()] + [1])
        table = np.zeros((self.traces, width), np.int32)
        lengths = np.zeros(self.traces, np.int32)
        for i, tokens in wire.close_join.items():
            table[i, : len(tokens)] = tokens
            lengths[i] = len(tokens)
        self.close_join, self.close_join_length = jnp.asarray(table), jnp.asarray(lengths)

    def __call__(
        self,
        params: Any,
        state: State,
        episode_ids: Int[Array, "Q"],
        key: Array,
        temperature: Array,
        read_length: int,
        width: int,
    ) -> State:
        """A step in which every row feeds up to `width` tokens and attention reads `read_length` positions."""
        state, logits, ready = self.feed(params, state, episode_ids, read_length, width)
        state, token, position = self.sample(state, logits, ready, episode_ids, key, temperature)
        return self.seat(self.pull(self.react(state, ready, token, position)))

    def feed(
        self, params: Any, state: State, episode_ids: Array, read_length: int, width: int
    ) -> tuple[State, Array, Array]:
        """Feeds every row its next known tokens, up to `width`. Returns logits [R, V], and the rows that may sample."""
        now = state.current
        trace = jnp.maximum(state.row_trace, 0)
        fed, backlog = at(state.fed, trace), self.backlog(state)
        episode = episode_ids[state.place][:, None]
        where = Where(
            jnp.broadcast_to(episode, trace.shape).reshape(-1), trace.reshape(-1), at(now.decoded, trace).reshape(-1)
        )
        column = jnp.arange(width)[None, None, :]
        position = fed[:, :, None] + column
        tokens = state.tokens[self.buffer_row(state, trace)[:, :, None], jnp.minimum(position, self.limits.context - 1)]
        position = jnp.where(column < backlog[:, :, None], position, -1)
        last = jnp.clip(backlog, 1, width) - 1
        rows = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        logits, cache = self.model.logits(
            params, state.cache, rows(tokens), rows(position), rows(last), read_length, where
        )
        count = jnp.minimum(backlog, width)
        ready = (backlog > 0) & (count == backlog) & at(state.decoding, trace)
        # An episode whose organizer has ended runs its workers up to the organizer's step and no further.
        over = now.end[:, :1] != TraceEnd.RUNNING
        ready &= ~over | (at(now.clock, trace) < now.clock[:, :1])
        fed = add_at(state.fed, state.row_trace, count)
        return state.replace(cache=cache, fed=fed), logits, ready

    def sample(
        self, state: State, logits: Array, ready: Array, episode_ids: Array, key: Array, temperature: Array
    ) -> tuple[State, Array, Array]:
        """Appends a token to every ready row's trace. Returns the tokens and their positions, [S, A]."""
        now = state.current
        trace = jnp.maximum(state.row_trace, 0)
        position = at(now.known, trace)
        episode = episode_ids[state.place][:, None]
        flat = lambda x: jnp.broadcast_to(x, trace.shape).reshape(-1)  # noqa: E731
        uniforms = token_uniforms(key, flat(episode), flat(trace), flat(position))
        allowed = decoded = None
        if self.constraint is not None:
            state_of_ids = id_states(now, state.inside, state.open_fork, self.agents)
            allowed = self.constraint.allowed(
                trace, at(state.lexer, trace), at(state.inside, trace), state_of_ids, jnp.sum(now.join_at > 0, axis=1)
            )
        if self.sampling.repetition_penalty != 1:
            known = self.buffer_row(state, trace).reshape(-1)
            decoded = (state.tokens.at[known].get(mode="clip"), state.sampled.at[known].get(mode="clip"))
        drawn = sample(logits, uniforms, temperature, self.sampling, allowed, decoded)
        token, logprob = (x.reshape(trace.shape) for x in drawn)

        chosen = jnp.where(ready, state.row_trace, -1)
        place = (self.buffer_row(state, chosen), position)
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
            steps=state.steps.at[place].set(at(now.clock, trace), mode="drop"),
            engine_steps=state.engine_steps + 1,
            sampled_tokens=state.sampled_tokens + jnp.sum(ready, axis=1),
        )
        return state, token, position

    def is_stop(self, token: Int[Array, "S A"]) -> Bool[Array, "S A"]:
        """Which of these tokens are end-of-text. Those are few: a table of the vocabulary would be read for nothing."""
        same = [token == stop for stop in self.stop_ids]
        return functools.reduce(jnp.logical_or, same) if same else jnp.zeros_like(token, bool)

    def lex(
        self, state: State, ready: Array, token: Array, position: Array
    ) -> tuple[State, Int[Array, "S A"], Int[Array, "S A"], Int[Array, "S A"]]:
        """Moves the automaton of every ready row on by its token.

        Returns, beside the state, of the tag that the token completes: the tag (NONE if none), its id, and the position
        of the token in which it began.
        """
        tables, trace = self.automaton, jnp.maximum(state.row_trace, 0)
        chosen = jnp.where(ready, state.row_trace, -1)
        before, kind = at(state.lexer, trace), tables["token_class"][token]
        tag = jnp.where(ready, tables["tag"][before, kind], Tag.NONE)
        started = at(state.tag_start, trace)
        begins, after = tables["begins"][before, kind], tables["next_state"][before, kind]
        start = jnp.where(begins, position, started)
        # Where a tag began that the token leaves unfinished.
        begins = jnp.where(tag == Tag.NONE, begins, tables["in_tag"][after])
        state = state.replace(
            lexer=set_at(state.lexer, chosen, after),
            tag_start=set_at(state.tag_start, chosen, jnp.where(begins, position, started)),
        )
        return state, tag, tables["tag_id"][before, kind], start

    def react(self, state: State, ready: Array, token: Array, position: Array) -> State:
        """Does what the tags say that the sampled tokens complete, for all rows at once."""
        limits, trace = self.limits, jnp.maximum(state.row_trace, 0)
        state, tag, tag_id, completed_start = self.lex(state, ready, token, position)
        now = state.current
        verdict = self.verdict(state, trace, tag, tag_id)
        legal = verdict == FormatError.NONE
        does = lambda one: legal & (tag == one)  # noqa: E731

        # What the organizers' tags do; row 0 is theirs.
        own_id, ids = tag_id[:, 0], jnp.arange(self.traces)[None, :]
        forks, joins = does(Tag.FORK)[:, 0], does(Tag.JOIN)[:, 0]
        opened = forks[:, None] & (ids == own_id[:, None])
        closed = does(Tag.END_FORK)[:, :1] & (ids == state.open_fork[:, None])
        joined = joins[:, None] & (ids == own_id[:, None])
        now = now.replace(
            used=now.used | opened,
            sub_start=jnp.where(opened, position[:, :1] + 1, now.sub_start),
            sub_end=jnp.where(closed, completed_start[:, :1], now.sub_end),
            fork_at=jnp.where(closed, now.decoded[:, :1], now.fork_at),
            join_at=jnp.where(joined, now.decoded[:, :1], now.join_at),
            clock=jnp.where(closed, now.clock[:, :1], now.clock),
        )

        # Which traces end here, and why. A Join that is the last token of the budget is still carried out, and the
        # trace ends after it: see `pull`.
        worker, is_eos = trace > 0, ready & self.is_stop(token)
        answers, returns = does(Tag.END_ANSWER), does(Tag.END_RETURN)
        known = at(now.known, trace)
        spent = at(now.decoded, trace) >= jnp.where(worker, limits.worker_budget, limits.organizer_budget)
        spent |= (known >= jnp.where(worker, limits.worker_length, limits.context)) | is_eos
        spent &= ready & ~does(Tag.JOIN)
        ends = answers | returns | ~legal | spent
        why = jnp.select(
            [answers, returns, ~legal], [TraceEnd.ANSWER, TraceEnd.RETURN, TraceEnd.FORMAT_ERROR], TraceEnd.BUDGET
        )
        # A Join reads what stood in the Return before the tag, or the end-of-text, that ended the worker.
        read_to = jnp.where(returns | ~legal, completed_start, jnp.where(is_eos, position, known))
        opens_return = does(Tag.RETURN)
        now = now.replace(
            end=set_at(now.end, jnp.where(ends, trace, -1), why),
            error=set_at(now.error, jnp.where(legal, -1, trace), verdict),
            return_start=set_at(now.return_start, jnp.where(opens_return, trace, -1), position + 1),
            return_end=set_at(now.return_end, jnp.where(ends & worker, trace, -1), read_to),
        )
        acts = jnp.where(legal & (tag != Tag.NONE), trace, -1)
        return state.replace(
            current=now,
            inside=set_at(state.inside, acts, self.inside_after[tag]),
            open_fork=jnp.where(forks, own_id, state.open_fork),
            lexer=state.lexer.at[:, 0].set(jnp.where(joins, 0, state.lexer[:, 0])),  # no tag spans inserted text
            decoding=state.decoding.at[:, 0].set(state.decoding[:, 0] & ~joins),
            pulled=state.pulled.at[:, 0].set(jnp.where(joins, 0, state.pulled[:, 0])),
            waits_for=jnp.where(joins, own_id, state.waits_for),
        )

    def verdict(
        self, state: State, trace: Int[Array, "S A"], tag: Int[Array, "S A"], tag_id: Int[Array, "S A"]
    ) -> Int[Array, "S A"]:
        """What `protocol/rules.py` says of the tag that each row has completed: a FormatError, NONE = legal."""
        state_of_ids = id_states(state.current, state.inside, state.open_fork, self.agents)
        verdict = self.verdicts[(trace > 0).astype(jnp.int32), at(state.inside, trace), tag, at(state_of_ids, tag_id)]
        return jnp.where(tag == Tag.NONE, FormatError.NONE, verdict)

    def pull(self, state: State) -> State:
        """Appends what can be read by now to the traces that take text from another one."""
        now, width, length = state.current, self.limits.feed_width, self.limits.context
        trace = jnp.arange(self.traces)[None, :]
        readable = self.readable(state)
        # Workers: prefix, sub-query, suffix. Organizers at a Join: takeaways, closing tag.
        is_worker = trace > 0
        row_length = jnp.where(is_worker, self.limits.worker_length, length)
        closed = now.fork_at > 0
        sub_length = jnp.where(closed, now.sub_end, readable[:, :1]) - now.sub_start
        joined = state.waits_for[:, None]
        ended = at(now.end, joined) != TraceEnd.RUNNING
        returned = at(now.return_start, joined)
        read_to = jnp.where(ended, at(now.return_end, joined), at(readable, joined))
        takeaways = jnp.where(returned >= 0, read_to - returned, 0)
        before = jnp.where(is_worker, self.prefix_length, 0)
        # Where one token ends the opening tag and starts the closing one, the text between them has length -1.
        body = jnp.maximum(jnp.where(is_worker, sub_length, takeaways), 0)
        complete = jnp.where(is_worker, closed, ended)
        after = jnp.where(is_worker, self.suffix_length, self.close_join_length[joined])
        available = before + body + jnp.where(complete, after, 0)
        takes = jnp.where(is_worker, now.used, joined > 0) & ~state.decoding & (now.end == TraceEnd.RUNNING)
        room = row_length - now.known
        count = jnp.where(takes, jnp.clip(jnp.minimum(available - state.pulled, room), 0, width), 0)

        column = jnp.arange(width)[None, None, :]
        k = state.pulled[:, :, None] + column
        source = self.buffer_row(state, jnp.where(is_worker, 0, joined))
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
            self.buffer_row(state, jnp.broadcast_to(trace, k.shape[:2]))[:, :, None],
            state.tokens.shape[0],
        )
        tokens = state.tokens.at[target, now.known[:, :, None] + column].set(new, mode="drop")

        pulled, known = state.pulled + count, now.known + count
        full = known >= row_length
        done = takes & complete & ((pulled >= before + body + after) | full)
        budget = jnp.where(is_worker, self.limits.worker_budget, self.limits.organizer_budget)
        spent = full | (now.decoded >= budget)
        end = jnp.where(done & spent, TraceEnd.BUDGET, now.end)
        clock = jnp.where(done & ~is_worker, jnp.maximum(now.clock, at(now.clock, joined)), now.clock)
        return state.replace(
            tokens=tokens,
            current=now.replace(known=known, end=end, clock=clock),
            pulled=pulled,
            decoding=state.decoding | done,
            waits_for=jnp.where(done[:, 0], 0, state.waits_for),
        )

    def seat(self, state: State) -> State:
        """Frees the rows of workers that need them no longer, and gives a row to a worker that waits for one.

        First the one that its organizer waits for, then in the order of the forks. Where the pool's workers have a row
        each none waits: a fork that finds the pool full is an error.
        """
        now, trace, worker = state.current, jnp.arange(self.traces)[None, :], jnp.arange(self.rows)[None, :] > 0
        # When an organizer has ended, its workers decode up to its step; a sub-query that it left open has no worker.
        is_late = (now.fork_at == 0) | (state.decoding & (now.clock >= now.clock[:, :1]))
        works = now.used & (now.end == TraceEnd.RUNNING) & ~((now.end[:, :1] != TraceEnd.RUNNING) & is_late)
        row_trace = jnp.where(worker & ~at(works, jnp.maximum(state.row_trace, 0)), -1, state.row_trace)
        waits = works & ~jnp.any(one_hot(works, row_trace), axis=1)
        turn = jnp.where(now.fork_at > 0, now.fork_at, self.limits.context)  # a fork in progress is the last
        turn = jnp.where(trace == state.waits_for[:, None], 0, turn)
        turn = jnp.where(waits, turn, self.limits.context + 1)
        first = jnp.where(jnp.any(waits, axis=1), jnp.argmin(turn, axis=1), -1)
        idle = row_trace < 0
        return state.replace(row_trace=jnp.where(idle & (jnp.cumsum(idle, axis=1) == 1), first[:, None], row_trace))

    def is_wide(self, state: State) -> Bool[Array, ""]:
        """Whether the next step feeds several tokens a row: enough of them wait beyond those of a narrow step."""
        if self.limits.feed_width == 1:
            return jnp.asarray(False)
        backlog = self.backlog(state)
        waiting = jnp.sum(jnp.maximum(jnp.minimum(backlog, self.limits.feed_width) - 1, 0))
        return waiting > self.limits.wide_at * jnp.sum(backlog > 0)

    def backlog(self, state: State) -> Int[Array, "S A"]:
        """Known tokens of each row that are not fed yet."""
        trace = jnp.maximum(state.row_trace, 0)
        works = (state.row_trace >= 0) & (at(state.current.end, trace) == TraceEnd.RUNNING)
        return jnp.where(works, at(state.current.known, trace) - at(state.fed, trace), 0)

    def readable(self, state: State) -> Int[Array, "S T"]:
        """How far each running trace may be read by another: a tag that may be in progress is held back."""
        return jnp.where(self.automaton["in_tag"][state.lexer], state.tag_start, state.current.known)

    def buffer_row(self, state: State, trace: Int[Array, "S ..."]) -> Int[Array, "S ..."]:
        """Row of `state.tokens` that holds a trace of the episode in flight; out of range (so dropped) for trace -1."""
        prompts = len(state.finished.used)
        first = jnp.minimum(state.place, prompts - 1) * self.traces
        first = first.reshape(-1, *[1] * (trace.ndim - 1))
        return jnp.where(trace < 0, prompts * self.traces, first + trace)
