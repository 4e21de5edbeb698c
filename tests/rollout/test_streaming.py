"""Watching: what is handed out is a beginning of what comes in the end, and changes nothing in it."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from organizing import CONFIG, POOL, VOCABULARY, episodes, organizing_params, prompts
from scripted import Pool, Script, episode_of, interpret, on_engine, read_lengths, table_of

from asyncthink_jax.play.decoder import decoding_model
from asyncthink_jax.rollout import engine as engine_lib
from asyncthink_jax.rollout import mirror as mirror_lib
from asyncthink_jax.rollout.state import TraceEnd

BUFFERS = ("tokens", "sampled", "logprobs", "steps")
EPISODES = 20  # in 8 slots: some have not begun, some are over, when the first looks are taken


@functools.cache
def own_engine():
    """One whose rows outgrow the half of the cache that is read at first."""
    return dataclasses.replace(POOL, context=32).quick_engine(decoding_model(CONFIG), one_bucket=False)


@pytest.fixture
def lengths(monkeypatch):
    """Gives the lengths that the cache has been read to since it was last asked, in a row, without repetitions."""
    read = read_lengths(own_engine(), monkeypatch)

    def lengths():
        found = [length for length, _ in itertools.groupby(read)]
        read.clear()
        return found

    return lengths


def run(engine, **options):
    return engine.run(organizing_params(), prompts(EPISODES), jax.random.key(7), 1.0, **options)


@pytest.fixture(scope="module")
def watched():
    """The rollout of somebody who watches every 3 steps, and what they saw."""
    seen = []
    return run(own_engine(), watch=seen.append, every=3), seen


def assert_same_bits(rollout, other):
    for name in BUFFERS:
        np.testing.assert_array_equal(getattr(rollout, name), getattr(other, name), err_msg=name)
    for name, values in other.record.items():
        np.testing.assert_array_equal(rollout.record[name], values, err_msg=name)
    assert rollout.engine_steps == other.engine_steps and rollout.occupancy == other.occupancy


def test_an_episode_has_the_same_bits_whether_somebody_watches_or_not(watched):
    unwatched = run(own_engine())
    assert_same_bits(watched[0], unwatched)
    assert_same_bits(run(own_engine(), watch=lambda _: None, every=1), unwatched)


def test_the_cache_is_read_as_far_as_by_the_unwatched(lengths):
    # What is read of it is chosen where no row fits any more, not each time that the host gets control.
    run(own_engine())
    unwatched = lengths()
    run(own_engine(), watch=lambda _: None, every=1)
    assert lengths() == unwatched == [16, 32]


def test_an_episode_has_the_same_bits_whether_somebody_polls_or_not(monkeypatch):
    monkeypatch.setattr(engine_lib, "POLL_EVERY", 3)
    polls = []
    polled = run(own_engine(), poll=lambda: polls.append(None))
    assert_same_bits(polled, run(own_engine()))
    assert len(polls) >= polled.engine_steps // 3 - 1


def test_a_rollout_is_given_up_by_what_a_poll_raises(monkeypatch):
    monkeypatch.setattr(engine_lib, "POLL_EVERY", 3)
    polls = iter(range(100))

    def third():
        if next(polls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(own_engine(), poll=third)
    assert next(polls) == 3


def test_another_interval_is_no_other_program(watched):
    programs = own_engine().advance._cache_size()
    run(own_engine(), watch=lambda _: None, every=5)
    assert own_engine().advance._cache_size() == programs


def test_all_that_is_seen_is_a_beginning_of_what_comes_in_the_end(watched):
    rollout, seen = watched
    assert len(seen) > 8
    known = np.zeros_like(rollout.record["known"])
    for view in seen:
        now = view.record["known"]
        assert (known <= now).all() and (now <= rollout.record["known"]).all()
        known = now
        written = np.arange(rollout.tokens.shape[2]) < now[:, :, None]
        for name in BUFFERS:
            np.testing.assert_array_equal(getattr(view, name)[written], getattr(rollout, name)[written], err_msg=name)
    assert_last_is_all(seen[-1], rollout)


def assert_last_is_all(view, rollout):
    for name, values in rollout.record.items():
        np.testing.assert_array_equal(view.record[name], values, err_msg=name)


def test_a_trace_longer_than_a_fetch_is_seen_whole(monkeypatch, watched):
    monkeypatch.setattr(mirror_lib, "WINDOW", 3)
    seen = []
    run(own_engine(), watch=seen.append, every=30)
    written = np.arange(watched[0].tokens.shape[2]) < watched[0].record["known"][:, :, None]
    np.testing.assert_array_equal(seen[-1].tokens[written], watched[0].tokens[written])


def test_an_episode_under_way_is_the_beginning_of_the_finished_one(watched):
    rollout, seen = watched
    finished = episodes(rollout)
    under_way = 0
    for view in seen:
        for n, whole in enumerate(finished):
            part = episode_of(view, n, VOCABULARY)
            assert part.answer in (None, whole.answer)
            if view.record["end"][n, 0] != TraceEnd.RUNNING:
                continue
            under_way += bool(part.traces[0].decoded_tokens)
            assert part.critical_path >= part.traces[0].decoded_tokens
            assert part.traces[0].end == "stopped"
            assert bool(part.format_error) == any(trace.end == "format_error" for trace in part.traces)
            ids = [trace.fork_id for trace in whole.traces]
            for trace in part.traces:
                # A worker may be ahead of its organizer, which may end before it comes so far.
                other = whole.traces[ids.index(trace.fork_id)].tokens
                shared = min(len(trace.tokens), len(other))
                np.testing.assert_array_equal(trace.tokens[:shared], other[:shared])
    assert under_way > 30


def test_a_look_tells_who_waits_and_how_far_the_critical_path_has_come():
    pool = Pool(agents=2, slots=1, prefix=0)
    organizer = pool.encode("<FORK-1> b</FORK-1> a<JOIN-1><ANSWER> c</ANSWER>")
    worker = pool.encode(" a a a a a a a a<RETURN> b</RETURN>")
    script = Script(pool.encode("solve"), [organizer, worker, worker, worker])
    _, read = interpret(pool, script)
    seen = []
    own = pool.scripted_engine()
    own.run(table_of(pool, [script], [read]), [script.prompt], jax.random.key(0), 0.0, watch=seen.append, every=1)
    fork_closes, joins = len(pool.encode("<FORK-1> b</FORK-1>")), len(pool.encode("<FORK-1> b</FORK-1> a<JOIN-1>"))
    assert len(seen) == on_engine(own, pool, [script], [read]).engine_steps
    for step, view in enumerate(seen[: fork_closes + len(worker) - 1], start=1):
        episode = episode_of(view, 0, pool.vocabulary)
        own_tokens = min(step, joins)
        assert [trace.decoded_tokens for trace in episode.traces] == [
            own_tokens,
            *([step - fork_closes] if step >= fork_closes else []),
        ]
        assert [(event.action, event.at) for event in episode.traces[0].events] == [
            *([("fork", fork_closes)] if step >= fork_closes else []),
            *([("join", joins)] if step >= joins else []),
        ]
        assert episode.critical_path == step
        assert [trace.prompt.tolist() for trace in episode.traces[1:]] in ([], [pool.encode(" b:")])


def test_to_watch_every_zero_steps_is_refused():
    with pytest.raises(ValueError, match="every is 0"):
        own_engine().run(organizing_params(), prompts(1), jax.random.key(0), 1.0, watch=print, every=0)
