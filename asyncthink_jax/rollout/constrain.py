"""Constrained decoding: which tokens may come next without a format error, as lookups on the device.

A token is allowed if reading it makes no format error and the tag that it leaves in progress, if it does, can still
become one that is legal there: `protocol/parser.py:Parser.allows` is the definition. Running out of budget is not
prevented. End-of-text is for workers only, since an organizer must answer first; other tokens that spell nothing
(control tokens, spare rows of the model) are for nobody. On demand an organizer may not answer before it has joined
some workers, which is no rule of the grammar.

A well-formed continuation then exists after every allowed token: `<` begins a new tag whatever is in progress, and the
vocabulary can write the closer of what is open, then `<ANSWER>` and `</ANSWER>` or `<RETURN>` and `</RETURN>`, which is
checked once, when the tables are made. So no row is ever left without a token.

The tables are over S lexer states and C token classes, not over the vocabulary: 151,936 tokens have some hundred
classes (`protocol/automaton.py:lift`). Of the size of the vocabulary is one thing only, the last gather, which gives
each token the verdict on its class.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from asyncthink_jax.protocol.automaton import ROOT, TagAutomaton, tag_automaton
from asyncthink_jax.protocol.grammar import NUMBERED, FormatError, Grammar, Tag, tag_literal
from asyncthink_jax.protocol.rules import VERDICT, IdState, Inside
from asyncthink_jax.protocol.wire import Wire

_NUMBERED = [tag + closer for tag in NUMBERED for closer in (0, 1)]
_OPENERS = {Tag.FORK: Tag.END_FORK, Tag.ANSWER: Tag.END_ANSWER, Tag.RETURN: Tag.END_RETURN}


class Constraint:
    """The tables of one grammar and tokenizer. An organizer answers when it has joined `min_workers` at least.

    What a token completes is numbered as an event: tag * (max_forks + 1) + id, so 0 = no tag, which is always legal;
    then end-of-text, and what is never legal. Where it leads is numbered as a place: a lexer state under the tags that
    are legal now (0..S-1), a lexer state after `</FORK-i>`, under those legal in plain text (S..2S-1), or one that
    needs no further look (2S).

    Raises:
        ValueError: the vocabulary can't write a tag that an open Fork, Answer or Return needs.
    """

    def __init__(self, wire: Wire, min_workers: int = 0):
        grammar, automaton = wire.grammar, wire.automaton
        self.ids, self.min_workers = grammar.max_forks + 1, min_workers
        self.eos = len(Tag) * self.ids
        never = self.eos + 1
        leads_to = _leads_to(tag_automaton(grammar.max_forks))
        tag, following = automaton.tag, automaton.next_state
        states = len(tag)
        event = tag * self.ids + automaton.tag_id
        place = np.where(tag == Tag.NONE, following, np.where(tag == Tag.END_FORK, states + following, 2 * states))
        # Behind an opener within the same token: only its own closer may be in progress.
        for opener, closer in _OPENERS.items():
            for i in range(self.ids):
                wrong = (event == opener * self.ids + i) & ~leads_to[following, closer * self.ids + i]
                event[wrong & (following != ROOT)] = never
        event[:, np.all(following == np.arange(states)[:, None], axis=0)] = never  # no text leaves every state as it is
        _check_vocabulary(grammar, event, place, leads_to, min_workers)

        token_class = automaton.token_class
        if wire.stop_ids:  # a class of their own
            event = np.column_stack([event, np.full(states, self.eos)])
            place = np.column_stack([place, np.full(states, 2 * states)])
            token_class = np.where(
                np.isin(np.arange(len(token_class)), list(wire.stop_ids)), event.shape[1] - 1, token_class
            )
        self.token_class = jnp.asarray(token_class, jnp.int32)
        self.event, self.place = jnp.asarray(event, jnp.int32), jnp.asarray(place, jnp.int32)
        self.leads_to = jnp.asarray(leads_to.T, jnp.float32)

    def allowed(
        self,
        trace: Int[Array, "S A"],
        lexer: Int[Array, "S A"],
        inside: Int[Array, "S A"],
        state_of_ids: Int[Array, "S T"],
        joined: Int[Array, "S"],
    ) -> Bool[Array, "R V"]:
        """The tokens that each row may write next.

        Args:
            trace: 0 = an organizer, else a worker. lexer: the automaton's state. inside: a `rules.Inside`.
            state_of_ids: the `rules.IdState` of each id of the slot's episode, 0 = those out of range.
            joined: the workers that the slot's organizer has joined.
        """
        now = self._legal(trace, inside, state_of_ids, joined)
        # Behind `</FORK-i>` the trace is in plain text, and worker i is active.
        closed = jnp.where(state_of_ids == IdState.OPEN, IdState.ACTIVE, state_of_ids)
        in_text = self._legal(trace, jnp.full_like(inside, Inside.TEXT), closed, joined)
        # A lexer state is fine if a tag that is legal can come of it, or "no tag", as of the root.
        fine = [legal[..., : self.eos].astype(jnp.float32) @ self.leads_to > 0 for legal in (now, in_text)]
        can_go_on = jnp.concatenate([*fine, jnp.ones((*trace.shape, 1), bool)], axis=-1)
        verdict = jnp.take_along_axis(now, self.event[lexer], axis=-1)
        verdict &= jnp.take_along_axis(can_go_on, self.place[lexer], axis=-1)
        return jnp.take(verdict.reshape(-1, verdict.shape[-1]), self.token_class, axis=1)

    def _legal(self, trace: Array, inside: Array, state_of_ids: Array, joined: Array) -> Bool[Array, "S A N"]:
        """The legal events: tags by `protocol/rules.py`, end-of-text for workers, nothing else."""
        worker = (trace > 0).astype(jnp.int32)
        by_state = jnp.asarray(VERDICT == FormatError.NONE)[worker, inside]  # [S, A, Tag, IdState]
        legal = jnp.take_along_axis(by_state, state_of_ids[:, None, None, :], axis=-1)  # [S, A, Tag, id]
        legal &= np.isin(np.arange(len(Tag)), _NUMBERED)[:, None] | (np.arange(self.ids) == 0)
        legal = legal.at[:, :, Tag.ANSWER].set(legal[:, :, Tag.ANSWER] & (joined >= self.min_workers)[:, None, None])
        legal = legal.reshape(*trace.shape, self.eos)
        is_worker = (worker > 0)[..., None]
        return jnp.concatenate([legal, is_worker, jnp.zeros_like(is_worker)], axis=-1)


def _leads_to(automaton: TagAutomaton) -> Bool[np.ndarray, "S N"]:
    """Whether bytes can make the event of the tag in progress; "no tag" is the event of the root and of no other.

    Through no other `<`, which would begin another tag, and not through the root.
    """
    states = len(automaton.next)
    ids = automaton.tag_id.max() + 1
    leads_to = np.zeros((states, len(Tag) * ids), bool)
    state, byte = np.nonzero(automaton.tag)
    leads_to[state, automaton.tag[state, byte] * ids + automaton.tag_id[state, byte]] = True
    following = np.where(np.arange(256) == ord("<"), ROOT, automaton.next)
    state, byte = np.nonzero(following)
    before = None
    while before is None or (before != leads_to).any():
        before = leads_to.copy()
        np.logical_or.at(leads_to, state, before[following[state, byte]])
    leads_to[ROOT] = False
    leads_to[:, 0] = np.arange(states) == ROOT
    return leads_to


def _check_vocabulary(
    grammar: Grammar, event: np.ndarray, place: np.ndarray, leads_to: np.ndarray, min_workers: int
) -> None:
    """Raises ValueError where a tag that must be written can't be, through allowed tokens, from some lexer state."""
    needed = [(Tag.ANSWER, 0), (Tag.END_ANSWER, 0)]
    if grammar.capacity > 1:
        needed += [(Tag.END_FORK, i) for i in range(1, grammar.max_forks + 1)] + [(Tag.RETURN, 0), (Tag.END_RETURN, 0)]
    if min_workers:  # each may turn out to be the one that is left
        needed += [(tag, i) for tag in (Tag.FORK, Tag.JOIN) for i in range(1, grammar.max_forks + 1)]
    states = len(event)
    for tag, tag_id in needed:
        number = tag * (grammar.max_forks + 1) + tag_id
        ends_there = (place == 2 * states) | (place % states == ROOT)  # with nothing in progress behind the tag
        can = np.any((event == number) & ends_there, axis=1)  # whether the tag can be written from a state
        steps = event == 0
        steps &= leads_to[np.minimum(place, states - 1)][:, :, [0, number]].any(-1)
        for _ in tag_literal(tag, tag_id):
            can |= np.any(steps & can[np.minimum(place, states - 1)], axis=1)
        if not can.all():
            raise ValueError(f"the vocabulary can't write {tag_literal(tag, tag_id)}: no constrained decoding with it")
