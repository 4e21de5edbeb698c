"""Constrained decoding: the engine's mask is what the text parser allows, and no format error is left."""

import dataclasses
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripted import Pool, episode_of
from scripts import BYTES, WORDS
from test_engine import MERGED

from asyncthink_jax.protocol.automaton import ROOT, lift, tag_automaton
from asyncthink_jax.protocol.grammar import Grammar, Tag, tag_literals
from asyncthink_jax.protocol.parser import Parser
from asyncthink_jax.protocol.rules import INSIDE_AFTER
from asyncthink_jax.protocol.wire import Wire
from asyncthink_jax.rollout.constrain import Constraint
from asyncthink_jax.rollout.state import DecodingModel, TraceEnd, blank_episodes, id_states

# Ids of two digits, in pieces: what may follow `<FORK-1` depends on whether 1 and 10, 11, 12 are free.
DIGITS = (b"<FORK-", b"</FORK-", b"<JOIN-", b"0", b"1", b"2", b"9", b"12", b"1>", b"2>", b">", b"><", b" a", b"<", b"/")
DIGITS += (
    b"<ANSWER>",
    b"</ANSWER>",
    b"<RETURN",
    b"</RETURN>",
    b"<JO",
    b"IN-1",
    b"1><",
    b"<A",
    b"0> a",
    b"",
    b"3",
    b"5",
)
DIGITS += (
    b"4",
    b"6",
    b"7",
    b"8",
    b"</",
    b"ANSWER",
    b"</JOIN-1>",
    b"<JOIN-1><",
    b"</FORK-1><",
    b"x</",
    b"></",
    b"><J",
    b"><A",
    b"",
)
VOCABULARIES = {
    "a token a tag": (Grammar(4, 3), tuple(WORDS)),
    "tags merged with text": (Grammar(3, 3), MERGED),
    "bytes": (Grammar(3, 3), tuple(BYTES[:128])),
    "ids of two digits": (Grammar(4, 12), DIGITS),
    "eight agents": (Grammar(8, 12), (*DIGITS, *(tag.encode() for tag in tag_literals(12)))),
    "the organizer alone": (Grammar(1, 0), MERGED),
}


def text(token):
    return token.decode("latin-1")


@functools.cache
def automaton_of(name):
    grammar, vocabulary = VOCABULARIES[name]
    return lift(tag_automaton(grammar.max_forks), vocabulary)


def moments(grammar, vocabulary, automaton, rng):
    """At each token of a random constrained trace: a parser, the lexer's state, and the tokens that are allowed."""
    parser, lexer = Parser(rng.choice(["organizer", "organizer", "worker"]), grammar), ROOT
    if parser.role == "organizer":  # from no fork at all to a full pool, some of them joined
        forked = rng.sample(
            range(1, grammar.max_forks + 1), rng.randint(0, min(grammar.max_forks, grammar.capacity - 1))
        )
        parser.feed("".join(f"<FORK-{i}></FORK-{i}>" for i in forked))
        parser.feed("".join(f"<JOIN-{i}>" for i in forked if rng.random() < 0.3))
        assert not parser.error
    restarts = np.array([b"<" in token for token in vocabulary])
    for _ in range(40):
        allowed = [parser.allows(text(piece)) for piece in vocabulary]
        yield parser, lexer, allowed
        # Tags are mostly gone on with once they are begun, and an Answer, the end of all, is rare.
        tag, after = (table[lexer, automaton.token_class] for table in (automaton.tag, automaton.next_state))
        weights = np.where(((after != ROOT) & ((lexer == ROOT) | ~restarts)) | (tag > 0), 12.0, 1.0)
        weights = np.where(tag == Tag.ANSWER, 0.5, weights) * allowed
        token = rng.choices(range(len(vocabulary)), weights.tolist())[0]
        actions = parser.feed(text(vocabulary[token]))
        lexer = automaton.next_state[lexer, automaton.token_class[token]]
        if actions and actions[-1].tag == Tag.JOIN:
            parser.interrupt()
            lexer = ROOT
        if parser.done:
            return


def mask_of(constraint, grammar, parsers, lexers):
    """The device's verdict on every token at each of these moments."""
    opened = [parser.open or (Tag.NONE, 0) for parser in parsers]
    inside = jnp.array([[INSIDE_AFTER[tag]] for tag, _ in opened])
    flags = lambda chosen: jnp.array([[i in ids for i in range(grammar.max_forks + 1)] for ids in chosen])  # noqa: E731
    used, joined = flags(parser.used for parser in parsers), flags(parser.joined for parser in parsers)
    now = blank_episodes((len(parsers),), grammar.max_forks + 1).replace(used=used, join_at=joined.astype(int))
    return np.asarray(
        jax.jit(constraint.allowed)(
            jnp.array([[int(parser.role == "worker")] for parser in parsers]),
            jnp.array(lexers)[:, None],
            inside,
            id_states(now, inside, jnp.array([fork_id for _, fork_id in opened]), grammar.capacity),
            jnp.sum(joined, axis=1),
        )
    )


def assert_exact(name, seed, walks):
    grammar, vocabulary = VOCABULARIES[name]
    automaton, rng = automaton_of(name), random.Random(seed)
    ends = [token for token, piece in enumerate(vocabulary) if piece == b""]
    stops = ends if grammar.capacity == 8 else ends[:1]  # what spells nothing and ends nothing is for nobody
    parsers, lexers, expected = [], [], []
    for _ in range(walks):
        for parser, lexer, allowed in moments(grammar, vocabulary, automaton, rng):
            allowed = [verdict and piece != b"" for verdict, piece in zip(allowed, vocabulary, strict=True)]
            for stop in stops:
                allowed[stop] = parser.role == "worker"
            parsers.append(snapshot(parser))
            lexers.append(int(lexer))
            expected.append(allowed)
    found = mask_of(Constraint(Wire(grammar, vocabulary, [], [0], {}, stops)), grammar, parsers, lexers)
    for parser, mask, allowed in zip(parsers, found, expected, strict=True):
        wrong = [vocabulary[t] for t in np.flatnonzero(mask != allowed)]
        assert not wrong, (parser.role, parser.open, parser.used, parser.joined, parser._pending, wrong)
    assert np.any(expected, axis=1).all()


def snapshot(parser):
    copy = Parser(parser.role, parser.grammar)
    copy.open, copy._pending = parser.open, parser._pending
    copy.used, copy.joined = set(parser.used), set(parser.joined)
    return copy


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_mask_is_what_the_parser_allows(name):
    assert_exact(name, seed=0, walks=12)


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_mask_is_what_the_parser_allows_for_new_traces_each_time(name, sweep):
    assert_exact(name, seed=random.randrange(2**32), walks=40 * sweep)


# --- What the definition says.


def allowed_after(written, pieces, role="organizer", grammar=Grammar(3, 12)):  # noqa: B008
    parser = Parser(role, grammar)
    parser.feed(written)
    return [piece for piece in pieces if parser.allows(piece)]


@pytest.mark.parametrize(
    ("written", "pieces", "allowed"),
    [
        # Nothing is forked: a tag that can become no other than a Join is never begun.
        ("", ["<", "<J", "<JOIN-1>", "<FORK-", "</", "<R", "<A", " a"], ["<", "<FORK-", "<A", " a"]),
        ("<FORK-", ["0", "1", "12", "13", "1>", "x", "<", ">"], ["1", "12", "1>", "x", "<", ">"]),
        ("<FORK-12></FORK-12><FORK-1", ["2", "0", ">", "2>", "3", "0>"], ["0", ">", "0>"]),
        ("<FORK-12></FORK-12><JOIN-1", ["2", "0", ">", "2>"], ["2", "2>"]),
        ("<FORK-1></FORK-1><FORK-2></FORK-2>", ["<F", "<J", "<JOIN-2><", "<FORK-3"], ["<J", "<JOIN-2><"]),
        ("<FORK-1></FORK-1><JOIN-1>", ["<J", "<F", "<FORK-1"], ["<F", "<FORK-1"]),
        ("<FORK-2>", ["</FORK-2>", "</FORK-2><J", "</FORK-2></", "</FORK-1>", "<J", "</", "</F", "</A"], None),
        ("<ANSWER> a", ["</ANSWER></FORK", "</F", "<", "<A", " a"], ["</ANSWER></FORK", "<", " a"]),
    ],
)
def test_what_an_organizer_may_write(written, pieces, allowed):
    expected = ["</FORK-2>", "</FORK-2><J", "</", "</F"] if allowed is None else allowed
    assert allowed_after(written, pieces) == expected


def test_what_a_worker_may_write():
    pieces = ["<RETURN>", "</RETURN>", "<", "</", "<F", "<R", " a"]
    assert allowed_after("", pieces, "worker") == ["<RETURN>", "<", "<R", " a"]
    assert allowed_after("<RETURN>", pieces, "worker") == ["</RETURN>", "<", "</", " a"]


@pytest.mark.parametrize("missing", ["<ANSWER>", "</ANSWER>", "</FORK-2>", "<RETURN>", "</RETURN>"])
def test_a_vocabulary_that_cannot_write_a_tag_that_is_needed_is_refused(missing):
    vocabulary = [literal.encode() for literal in tag_literals(3) if literal != missing] + [b" a"]
    with pytest.raises(ValueError, match=missing):
        Constraint(Wire(Grammar(3, 3), vocabulary, [], [0], {}))


# --- The engine.


def random_model(vocabulary_size):
    """What follows a token is drawn by a random table: an untrained model."""

    def logits(params, cache, tokens, positions, last, read_length, where):
        return params[jnp.take_along_axis(tokens, last[:, None], axis=1)[:, 0]], cache

    return DecodingModel(lambda rows, length: jnp.zeros((rows, 1)), logits)


POOLS = {
    "a token a tag": Pool(agents=4, context=64, worker_context=24, slots=128),
    "tags merged with text": Pool(agents=3, context=64, worker_context=32, slots=128, vocabulary=MERGED),
}


@functools.cache
def constrained_engine(name):
    pool = POOLS[name]
    return pool.quick_engine(random_model(len(pool.vocabulary)), constrain=True)


@functools.cache
def random_scores(name):
    """A score for each token after each token; what begins or goes on with a tag is likelier, else tags are rare."""
    vocabulary = POOLS[name].vocabulary
    scores = np.random.default_rng(0).normal(size=(len(vocabulary), len(vocabulary)))
    scores[:, [b"<" in token for token in vocabulary]] += 1.0
    automaton = lift(tag_automaton(POOLS[name].forks), vocabulary)
    following, completes = automaton.next_state[:, automaton.token_class], automaton.tag[:, automaton.token_class]
    for before in range(len(vocabulary)):
        states = set(following[:, before].tolist()) - {ROOT}
        if vocabulary[before] and states:
            goes_on = np.any([(following[s] != ROOT) | (completes[s] > 0) for s in states], axis=0)
            scores[before, goes_on & [b"<" not in token for token in vocabulary]] += 5.0
    return scores


def random_rollout(name, episodes):
    pool, scores = POOLS[name], random_scores(name)
    return constrained_engine(name).run(
        jnp.asarray(scores, jnp.float32), [pool.encode("solve")] * episodes, jax.random.key(1), 1.0
    ), scores


def assert_no_errors(rollout):
    ends, forked = rollout.record["end"], rollout.record["fork_at"] > 0
    assert not np.any(ends == TraceEnd.FORMAT_ERROR) and not np.any(rollout.record["error"])
    answered = ends[:, 0] != TraceEnd.BUDGET
    assert answered.mean() > 0.1 and forked.sum() > len(rollout) / 5 and np.sum(rollout.record["join_at"] > 0) > 20


@pytest.mark.parametrize("name", POOLS)
def test_random_episodes_have_no_format_error_but_an_exhausted_budget(name):
    rollout, _ = random_rollout(name, 512)
    assert_no_errors(rollout)
    for n in range(len(rollout)):
        episode = episode_of(rollout, n, POOLS[name].vocabulary)
        assert episode.format_error in (None, "no_answer")
        assert (episode.format_error is None) == (episode.traces[0].end == "answer")


@pytest.mark.parametrize("name", POOLS)
def test_an_organizer_can_be_made_to_hear_workers_before_it_answers(name):
    pool, scores = POOLS[name], random_scores(name)
    engine = dataclasses.replace(pool, min_workers=1).quick_engine(random_model(len(pool.vocabulary)), constrain=True)
    rollout = engine.run(jnp.asarray(scores, jnp.float32), [pool.encode("solve")] * 256, jax.random.key(1), 1.0)
    assert not np.any(rollout.record["error"])
    joined = np.sum(rollout.record["join_at"] > 0, axis=1)
    answered = rollout.record["end"][:, 0] == TraceEnd.ANSWER
    assert answered.sum() >= 3 and joined[answered].min() == 1
    free, _ = random_rollout(name, 512)
    without = ~np.any(free.record["join_at"] > 0, axis=1)
    assert np.any(without & (free.record["end"][:, 0] == TraceEnd.ANSWER))


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_2000_random_episodes_have_no_format_error(name, sweep):
    assert_no_errors(random_rollout(name, 2_000 * sweep)[0])


@pytest.mark.parametrize("name", POOLS)
def test_log_probabilities_are_those_among_the_allowed_tokens(name):
    # So every mask of the loop, at every step of every trace, is the one that the parser makes of the trace's text.
    pool, (rollout, scores) = POOLS[name], random_rollout(name, 512)
    seen, returned = set(), np.flatnonzero(np.any(rollout.record["return_start"] >= 0, axis=1))
    for n in [*range(30), *returned[:10]]:
        for trace in episode_of(rollout, n, pool.vocabulary).traces:
            parser, before = Parser(trace.role, pool.grammar), trace.prompt[-1]
            for token, sampled, logprob in zip(trace.tokens, trace.sampled, trace.logprobs, strict=True):
                if sampled:
                    allowed = np.array([parser.allows(text(piece)) for piece in pool.vocabulary])
                    allowed[pool.eos_id] = trace.role == "worker"
                    row = scores[before]
                    expected = row[token] - np.log(np.sum(np.exp(row[allowed])))
                    np.testing.assert_allclose(logprob, expected, atol=1e-4)
                    actions = parser.feed(text(pool.vocabulary[token]))
                    seen.add((trace.role, parser.open and parser.open[0]))
                    if actions and actions[-1].tag == Tag.JOIN:
                        parser.interrupt()
                before = token
    assert {("organizer", Tag.FORK), ("organizer", Tag.ANSWER), ("worker", Tag.RETURN)} <= seen
