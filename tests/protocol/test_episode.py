"""The clock of an episode: critical path and concurrency ratio against a simulation, and the file format."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncthink_jax.protocol.episode import (
    Attempt,
    Episode,
    Event,
    Trace,
    clock,
    concurrency_ratio,
    critical_path,
    side_by_side,
    spans,
)


def trace(role, decoded, fork_id=None, events=(), end="answer"):
    """A trace of so many decoded tokens: all that the clock looks at."""
    return Trace(
        role=role,
        fork_id=fork_id,
        prompt=np.zeros(1, np.int32),
        tokens=np.arange(decoded, dtype=np.int32),
        sampled=np.ones(decoded, np.bool_),
        logprobs=np.zeros(decoded, np.float32),
        steps=np.zeros(decoded, np.int32),
        events=list(events),
        end=end,
    )


def episode(organizer_tokens, events, workers):
    return [
        trace("organizer", organizer_tokens, events=events),
        *(trace("worker", workers[i], fork_id=i, end="return") for i in sorted(workers)),
    ]


def test_the_recurrence_on_an_episode_worked_out_by_hand():
    # f_1 = 10, with FORK-1 after 4 tokens (its worker: 9) and FORK-2 after 6 (20); f_2 = 5 to JOIN-2; f_3 = 3.
    events = [Event("fork", 1, 4), Event("fork", 2, 6), Event("join", 1, 10), Event("join", 2, 15)]
    traces = episode(18, events, {1: 9, 2: 20})
    # l_1 = max(10, 0 + 4 + 9) = 13; l_2 = max(13 + 5, 0 + 6 + 20) = 26; T = l_3 = 26 + 3.
    assert critical_path(traces) == 29
    assert clock(traces) == [(0, 29), (4, 13), (6, 26)]
    assert concurrency_ratio(traces) == (18 + 9 + 20) / 29


def test_a_join_of_a_finished_worker_costs_nothing():
    assert critical_path(episode(20, [Event("fork", 1, 3), Event("join", 1, 15)], {1: 5})) == 20


def test_sequential_thinking_has_concurrency_one():
    assert concurrency_ratio(episode(7, [], {})) == 1.0
    assert critical_path(episode(7, [], {})) == 7


def alone(decoded, format_error=None):
    return Episode("sequential", 1, [trace("organizer", decoded)], "a", format_error, decoded, concurrency=1.0)


def test_traces_side_by_side_take_as_long_as_the_longest_and_fail_only_together():
    both = side_by_side([alone(10, "no_answer"), alone(6)], "b")
    assert (both.critical_path, both.concurrency, both.agents) == (10, 16 / (10 * 2), 2)
    assert (both.format_error, both.answer, both.paradigm) == (None, "b", "parallel")
    assert side_by_side([alone(6, "no_answer"), alone(7, "stray_tag")], None).format_error == "no_answer"


def test_an_unjoined_worker_counts_up_to_the_answer():
    traces = episode(10, [Event("fork", 1, 4)], {1: 100})
    assert clock(traces) == [(0, 10), (4, 10)]
    assert concurrency_ratio(traces) == 1.6


def test_the_organizer_does_not_count_while_it_waits():
    # It forks at step 1, waits until step 9 and ends at step 10: 2 + 8 tokens over 10 steps.
    traces = episode(3, [Event("fork", 1, 1), Event("join", 1, 2)], {1: 8})
    assert critical_path(traces) == 10
    assert concurrency_ratio(traces) == 1.1


def test_independent_organizers_take_as_long_as_the_longest():
    traces = [trace("organizer", 5), trace("organizer", 8), trace("organizer", 3)]
    assert critical_path(traces) == 8
    assert concurrency_ratio(traces) == 2.0
    assert clock(traces) == [(0, 5), (0, 8), (0, 3)]


def test_an_episode_without_a_token_has_no_concurrency():
    assert concurrency_ratio(episode(0, [], {})) == 0.0


@pytest.mark.parametrize(
    "traces",
    [
        episode(5, [Event("fork", 1, 1)], {}),
        episode(5, [], {1: 3}),
        episode(5, [Event("join", 1, 1), Event("fork", 1, 2)], {1: 3}),
        [*episode(5, [], {}), *episode(5, [Event("fork", 1, 1)], {1: 3})],
    ],
)
def test_events_and_workers_that_do_not_match_are_refused(traces):
    with pytest.raises(ValueError, match=r"fork|organizer"):
        clock(traces)


@st.composite
def random_traces(draw):
    """An organizer that thinks, forks and joins at random, and workers of random length."""
    events, decoded, running, forked, workers = [], 0, [], 0, {}
    for _ in range(draw(st.integers(0, 10))):
        decoded += draw(st.integers(0, 6))
        if running and draw(st.booleans()):
            done = running.pop(draw(st.integers(0, len(running) - 1)))
            events.append(Event("join", done, decoded))
        else:
            forked += 1
            running.append(forked)
            workers[forked] = draw(st.integers(0, 15))
            events.append(Event("fork", forked, decoded))
    return episode(decoded + draw(st.integers(0, 6)), events, workers)


def simulate(traces):
    """Every running agent decodes one token a step: -> (T, [tokens decoded by each trace up to T])."""
    organizer = traces[0]
    length = {t.fork_id: t.decoded_tokens for t in traces[1:]}
    pending = list(organizer.events)
    written, done, steps = {}, 0, 0  # started workers -> tokens so far; the organizer's tokens; the clock
    while True:
        while pending and pending[0].at == done:
            event = pending[0]
            if event.action == "join" and written[event.id] < length[event.id]:
                break
            if event.action == "fork":
                written[event.id] = 0
            pending.pop(0)
        waiting = bool(pending) and pending[0].at == done
        if done == organizer.decoded_tokens and not waiting:
            return steps, [done, *(written[t.fork_id] for t in traces[1:])]
        steps += 1
        done += not waiting
        for i in written:
            written[i] = min(written[i] + 1, length[i])


@settings(deadline=None, max_examples=500)
@given(random_traces())
def test_the_recurrence_equals_a_discrete_event_simulation(traces):
    steps, decoded = simulate(traces)
    assert critical_path(traces) == steps
    assert [life.end - life.start for life in clock(traces)[1:]] == decoded[1:]
    assert concurrency_ratio(traces) == (sum(decoded) / steps if steps else 0.0)


def test_spans_alternate_between_decoded_and_joined_text():
    t = trace("organizer", 6)
    t.sampled[:] = [True, True, False, False, True, False]
    assert spans(t) == [("decoded", [0, 1]), ("joined", [2, 3]), ("decoded", [4]), ("joined", [5])]
    assert t.decoded_tokens == 3
    assert spans(trace("organizer", 0)) == []


def test_a_line_of_episodes_jsonl():
    traces = episode(6, [Event("fork", 1, 2), Event("join", 1, 4)], {1: 5})
    organizer = traces[0]
    organizer.tokens = np.arange(8, dtype=np.int32)
    organizer.sampled = np.array([1, 1, 1, 1, 0, 0, 1, 1], np.bool_)
    line = Attempt(
        task="countdown_tiny",
        problem={"numbers": [2, 3, 4, 5], "target": 24, "n_solutions": 4},
        seed=0,
        episode=Episode(
            paradigm="async",
            agents=4,
            traces=traces,
            answer="a",
            format_error=None,
            critical_path=9,
            concurrency=11 / 9 / 4,
        ),
        score={"accuracy": 0.75, "correct": 3},
        reward=0.81,
    ).to_json(lambda ids: " ".join(map(str, ids)))
    assert json.loads(json.dumps(line)) == {
        "task": "countdown_tiny",
        "problem": {"numbers": [2, 3, 4, 5], "target": 24, "n_solutions": 4},
        "paradigm": "async",
        "agents": 4,
        "seed": 0,
        "traces": [
            {
                "role": "organizer",
                "fork_id": None,
                "prompt": "0",
                "spans": [["decoded", "0 1 2 3"], ["joined", "4 5"], ["decoded", "6 7"]],
                "decoded_tokens": 6,
                "events": [{"action": "fork", "id": 1, "at": 2}, {"action": "join", "id": 1, "at": 4}],
                "start_step": 0,
                "end_step": 9,
                "end": "answer",
            },
            {
                "role": "worker",
                "fork_id": 1,
                "prompt": "0",
                "spans": [["decoded", "0 1 2 3 4"]],
                "decoded_tokens": 5,
                "events": [],
                "start_step": 2,
                "end_step": 7,
                "end": "return",
            },
        ],
        "answer": "a",
        "score": {"accuracy": 0.75, "correct": 3},
        "format_error": None,
        "critical_path": 9,
        "concurrency": 11 / 9 / 4,
        "reward": 0.81,
    }
