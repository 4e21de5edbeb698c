"""The engine gives the episodes of its reference, the interpreter, for any script, tokenizer, budget and width.

With each token the scripted model checks what it has been fed, prompts, sub-queries and joined text included: it writes
something else where that is not what the interpreter's model has read.
"""

import dataclasses
import functools
import itertools
import random

import jax
import pytest
from hypothesis import strategies as st
from scripted import (
    FORKS,
    Pool,
    Script,
    episode_of,
    examples,
    facts,
    interpret,
    on_engine,
    read_lengths,
    scripted_model,
)
from scripts import BYTES, EOS, WORDS, decode, organizer_scripts, worker_scripts

from asyncthink_jax.protocol.grammar import FormatError
from asyncthink_jax.rollout.engine import Engine
from asyncthink_jax.rollout.state import Limits

# Tags in pieces, some of which hold the end of a tag and the text after it, or the start of the next one.
PIECES = "<|</|FORK-|JOIN-|ANSWER|RETURN|1|2|3|>|><|></|1>|<ANS|WER>|> a| a<| a| b| c|<FORK-1>|a|:|work|solve"
MERGED = (*(piece.encode() for piece in PIECES.split("|")), *(bytes([b]) for b in b" bc90FORKJINASWETU-/"), b"")
ERRORS = ["<FORK-1>", "<FORK-2></FORK-2><FORK-3></FORK-3><JOIN-3>", "<JOIN-2>", "<JOIN-1><JOIN-1>", "<FORK-2><JOIN-1>"]
ERRORS += ["</JOIN-1>", "</FORK-1>", "<RETURN>", "</RETURN>", "<FORK-9>", "<JOIN-0>", "<ANSWER><FORK-2>", "</ANSWER>"]
WORKER_ERRORS = ["<ANSWER>", "<FORK-1>", "</RETURN>", "<RETURN> b<RETURN>", "<RETURN> b<JOIN-0>", " a</FORK-2>"]

POOLS = {
    "budgets run out, workers without a prefix": Pool(agents=3, organizer_budget=9, worker_budget=3, prefix=0),
    "rows fill up, fed four tokens a step": Pool(
        agents=4, context=14, prefix=6, feed_width=4, other_stops=(WORDS.index(b"work"),)
    ),
    "workers' rows are short": Pool(agents=4, context=40, worker_context=9, prefix=2),
    "a row for three workers": Pool(agents=4, context=40, worker_budget=6, worker_context=12, worker_rows=1),
    "tags merged with text": Pool(agents=4, context=96, vocabulary=MERGED),
    "bytes, fed four tokens a step": Pool(
        agents=3,
        context=80,
        organizer_budget=66,
        worker_budget=28,
        eos=False,
        feed_width=4,
        vocabulary=tuple(BYTES[:128]),
    ),
}
MORE_POOLS = {
    "four agents": Pool(agents=4),
    "two agents, no end-of-text, workers without a prefix": Pool(agents=2, eos=False, prefix=0),
    "the organizer alone": Pool(agents=1),
    "three agents, fed four tokens a step": Pool(agents=3, feed_width=4, prefix=3),
    "budgets run out, fed four tokens a step": Pool(agents=4, organizer_budget=14, worker_budget=5, feed_width=4),
    "budgets of one token": Pool(agents=3, organizer_budget=1, worker_budget=1, prefix=0),
    "organizers without a budget": Pool(agents=3, organizer_budget=0),
    "workers without a budget": Pool(agents=3, worker_budget=0),
    "rows fill up": Pool(agents=3, context=12),
    "two rows for three workers, fed four tokens a step": Pool(agents=4, worker_budget=12, feed_width=4, worker_rows=2),
    "more rows than workers": Pool(agents=3, worker_rows=8),
    "bytes": Pool(agents=4, context=160, organizer_budget=160, worker_budget=160, eos=False, vocabulary=tuple(BYTES)),
    "tags merged with text, budgets run out": Pool(
        agents=3, context=50, organizer_budget=34, worker_budget=12, feed_width=4, vocabulary=MERGED
    ),
}


@st.composite
def scripts_for(draw, pool):
    """Scripts as the interpreter's tests draw them, cut into the tokens of the pool's vocabulary."""
    words = [draw(organizer_scripts(pool.agents)), *(draw(worker_scripts()) for _ in range(FORKS))]
    prompt = pool.encode("solve" + ":" * draw(st.integers(0, 2)))
    if pool.vocabulary == tuple(WORDS):
        return Script(prompt, words)
    rng = random.Random(draw(st.integers(0, 2**32)))
    return Script(prompt, [cut(tokens, pool, rng) for tokens in words])


def cut(words, pool, rng):
    """One of the ways to write the text of `words` in the pool's vocabulary, the end-of-text tokens where they were."""
    tokens = []
    for last, run in itertools.groupby(words, lambda word: word == EOS):
        text = b"" if last else b"".join(WORDS[word] for word in run)
        tokens += [pool.eos_id] if last and pool.eos else []
        while text:
            fits = [t for t, piece in enumerate(pool.vocabulary) if piece and text.startswith(piece)]
            tokens.append(rng.choice(fits))
            text = text[len(pool.vocabulary[tokens[-1]]) :]
    return tokens or pool.encode("a")


def edge_scripts(pool):
    """One episode shifted until its end has met every limit: in a sub-query, in a Return, in a tag, at a Join."""
    organizer = pool.encode("<FORK-1> b c</FORK-1> a<JOIN-1> b<ANSWER> c</ANSWER>")
    worker = pool.encode(" a<RETURN> b c</RETURN>")
    prompt, wait = pool.encode("solve")[:1], pool.encode(":")
    joins_at_once = pool.encode("<FORK-1> b</FORK-1><JOIN-1><ANSWER></ANSWER>")
    scripts = [(prompt, wait * n + organizer, worker) for n in range(min(pool.organizer_budget, pool.context) + 1)]
    scripts += [(prompt, organizer, wait * n + worker) for n in range(min(pool.worker_budget, pool.context) + 1)]
    scripts += [(prompt, joins_at_once, wait * n + worker) for n in range(min(pool.worker_budget, pool.context) + 1)]
    scripts += [(prompt * n, organizer, worker) for n in range(max(1, pool.context - 20), pool.context + 1)]
    for end in [[stop] for stop in pool.stop_ids] or [[]]:
        scripts += [(prompt, organizer[:n] + end, worker) for n in range(1, len(organizer))]
        scripts += [(prompt, organizer, worker[:n] + end) for n in range(1, len(worker))]
    scripts += [(prompt, pool.encode("<FORK-1></FORK-1>" + error), worker) for error in ERRORS]
    scripts += [(prompt, organizer, pool.encode(error)) for error in WORKER_ERRORS]
    return [Script(prompt, [organizer, worker, worker, worker]) for prompt, organizer, worker in scripts]


@functools.cache
def scenarios(name):
    """Scripts for a pool, and what the interpreter makes of each: the episode and what its model has read."""
    scripts = examples(scripts_for(POOLS[name]), 150) + edge_scripts(POOLS[name])
    return scripts, [interpret(POOLS[name], script) for script in scripts]


def assert_same_episodes(engine, pool, scripts, interpreted):
    expected, reads = zip(*interpreted, strict=True)
    rollout = on_engine(engine, pool, scripts, reads)
    for n, (script, episode) in enumerate(zip(scripts, expected, strict=True)):
        written = [decode(tokens, pool.vocabulary) for tokens in script.tokens]
        assert facts(episode_of(rollout, n, pool.vocabulary)) == facts(episode), f"prompt {script.prompt}, {written}"


@pytest.mark.parametrize("name", POOLS)
def test_the_engine_gives_the_episodes_of_the_interpreter(name):
    assert_same_episodes(POOLS[name].scripted_engine(), POOLS[name], *scenarios(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS | MORE_POOLS)
def test_the_engine_gives_the_episodes_of_the_interpreter_for_new_scripts_each_time(name, sweep):
    pool = (POOLS | MORE_POOLS)[name]
    scripts = examples(scripts_for(pool), 100 * sweep, derandomize=False) + edge_scripts(pool)
    assert_same_episodes(pool.scripted_engine(), pool, scripts, [interpret(pool, script) for script in scripts])


@pytest.mark.slow
def test_the_cache_is_read_as_far_as_its_longest_row(monkeypatch):
    pool = Pool(agents=4, context=32, slots=4, feed_width=4)
    engine = pool.scripted_engine(one_bucket=False)
    read = read_lengths(engine, monkeypatch)
    scripts = examples(scripts_for(pool), 60)
    assert_same_episodes(engine, pool, scripts, [interpret(pool, script) for script in scripts])
    assert set(read) == {16, 32}


def test_what_the_interpreter_does_with_these_scripts_is_worth_comparing():
    # Every end of every role, every error: no scenario of the comparison has gone missing.
    ends, errors = set(), set()
    for name in POOLS:
        for episode, _ in scenarios(name)[1]:
            ends |= {(trace.role, trace.end) for trace in episode.traces}
            errors.add(episode.format_error)
    assert ends == {
        *(("organizer", end) for end in ("answer", "budget", "format_error")),
        *(("worker", end) for end in ("return", "budget", "format_error", "stopped")),
    }
    assert errors == {None, *(error.name.lower() for error in FormatError if error)}


@pytest.mark.parametrize("prompts", [[[1], []], [[1], [1] * 65]])
def test_a_prompt_that_cannot_be_used_is_refused(prompts):
    with pytest.raises(ValueError, match=r"prompt \d has (0|65) tokens, but must have 1 to 64 \(rollout\.context\)"):
        Pool(agents=2).scripted_engine().run({}, prompts, jax.random.key(0), 1.0)


def test_a_worker_prompt_needs_a_token_after_the_sub_query():
    with pytest.raises(ValueError, match="suffix is empty"):
        dataclasses.replace(Pool(agents=2).wire, worker_suffix=[])


def test_a_model_that_cannot_read_a_prompt_at_once_is_refused_where_prompts_shall_be():
    model, limits = scripted_model(3)._replace(prefill=None), Limits(1, 8, 8, 8, prefill=4)
    with pytest.raises(ValueError, match="can't read a prompt at once"):
        Engine(model, Pool(agents=2).wire, limits)


def test_workers_without_a_row_are_refused():
    with pytest.raises(ValueError, match="worker_rows must be at least 1"):
        Pool(agents=2, worker_rows=0).scripted_engine()


def test_no_prompts_make_no_episodes():
    assert len(Pool(agents=2).scripted_engine().run({}, [], jax.random.key(0), 1.0)) == 0
