"""The timeline: lanes, waiting and the critical path of an episode."""

import itertools

import pytest
from matplotlib.image import imread

from asyncthink_jax.report import timeline
from asyncthink_jax.report.layout import Bar, Link, layout, worker_texts


def organizer(decoded, events, end_step, *, text="", end="answer"):
    return {
        "role": "organizer",
        "fork_id": None,
        "prompt": "solve 5 6 8 10 = 3 :",
        "spans": [["decoded", text]],
        "decoded_tokens": decoded,
        "events": [{"action": action, "id": fork_id, "at": at} for action, fork_id, at in events],
        "start_step": 0,
        "end_step": end_step,
        "end": end,
    }


def worker(fork_id, start, end, *, text="", how="return"):
    return {
        "role": "worker",
        "fork_id": fork_id,
        "prompt": "work 5 6 8 10 = 3 :",
        "spans": [["decoded", text]],
        "decoded_tokens": end - start,
        "events": [],
        "start_step": start,
        "end_step": end,
        "end": how,
    }


def episode(*traces, agents=3, **more):
    return {
        "task": "countdown_tiny",
        "problem": {"numbers": [5, 6, 8, 10], "target": 3, "n_solutions": 4},
        "paradigm": "async",
        "agents": agents,
        "seed": 0,
        "traces": list(traces),
        "answer": " 5 + 6 - 8",
        "score": {"accuracy": 0.25, "correct": 1},
        "format_error": None,
        "critical_path": max(trace["end_step"] for trace in traces),
        "concurrency": 0.5,
        "reward": 0.5,
    } | more


# The organizer forks at 4 and 6, reaches JOIN-1 at 10 and waits until 13, reaches JOIN-2 at 18, and waits until 26.
EVENTS = [("fork", 1, 4), ("fork", 2, 6), ("join", 1, 10), ("join", 2, 15)]
WAITING_TWICE = episode(organizer(18, EVENTS, 29), worker(1, 4, 13), worker(2, 6, 26))


def bars(plan, kind):
    return [(bar.lane, bar.start, bar.end) for bar in plan.bars if bar.kind == kind]


def test_the_organizer_waits_at_a_join_until_the_worker_returns():
    plan = layout(WAITING_TWICE)
    assert bars(plan, "organizer") == [(0, 0, 10), (0, 13, 18), (0, 26, 29)]
    assert bars(plan, "waiting") == [(0, 10, 13), (0, 18, 26)]
    assert plan.steps == 29


def test_every_worker_has_a_lane_while_it_is_active():
    plan = layout(WAITING_TWICE)
    assert bars(plan, "worker") == [(1, 4, 13), (2, 6, 26)]
    assert plan.lanes == ["organizer", "worker 1", "worker 2"]


def test_forks_and_joins_stand_at_the_step_at_which_they_happen():
    links = layout(WAITING_TWICE).links
    assert links == [Link("fork", 1, 1, 4), Link("fork", 2, 2, 6), Link("join", 1, 1, 13), Link("join", 2, 2, 26)]


def test_the_critical_path_goes_through_the_worker_that_was_waited_for_last():
    assert layout(WAITING_TWICE).critical == [(0, 0, 6), (2, 6, 26), (0, 26, 29)]


def test_the_critical_path_goes_through_a_worker_whose_wait_delays_a_later_fork():
    events = [("fork", 1, 2), ("join", 1, 3), ("fork", 2, 5), ("join", 2, 6)]
    plan = layout(episode(organizer(8, events, 24), worker(1, 2, 10), worker(2, 12, 22)))
    assert plan.critical == [(0, 0, 2), (1, 2, 10), (0, 10, 12), (1, 12, 22), (0, 22, 24)]


def test_the_critical_path_stays_with_an_organizer_that_never_waits():
    events = [("fork", 1, 2), ("join", 1, 20)]
    plan = layout(episode(organizer(25, events, 25), worker(1, 2, 8)))
    assert plan.critical == [(0, 0, 25)]
    assert bars(plan, "returned") == [(1, 8, 20)]
    assert bars(plan, "waiting") == []


@pytest.mark.parametrize("one", [WAITING_TWICE, episode(organizer(7, [], 7), agents=1)])
def test_the_critical_path_has_no_gap(one):
    path = layout(one).critical
    assert path[0][1] == 0 and path[-1][2] == one["critical_path"]
    assert all(before[2] == after[1] for before, after in itertools.pairwise(path))


def test_a_lane_is_free_again_after_the_join_not_after_the_return():
    events = [("fork", 1, 2), ("fork", 2, 10), ("join", 1, 12), ("fork", 3, 14), ("join", 2, 15), ("join", 3, 16)]
    plan = layout(episode(organizer(20, events, 24), worker(1, 2, 5), worker(2, 10, 12), worker(3, 14, 20)))
    assert bars(plan, "worker") == [(1, 2, 5), (2, 10, 12), (1, 14, 20)]


def test_a_worker_that_is_never_joined_keeps_its_lane_to_the_end():
    plan = layout(episode(organizer(20, [("fork", 1, 2)], 20), worker(1, 2, 8)))
    assert bars(plan, "returned") == [(1, 8, 20)]


def test_an_idle_agent_of_the_pool_has_an_empty_lane():
    plan = layout(episode(organizer(20, [], 20), agents=4))
    assert plan.lanes == ["organizer", "worker 1", "worker 2", "worker 3"]


def test_independent_traces_have_a_lane_each_and_the_longest_is_the_critical_path():
    plan = layout(episode(organizer(5, [], 5), organizer(9, [], 9), organizer(7, [], 7)))
    assert plan.lanes == ["trace 1", "trace 2", "trace 3"]
    assert plan.critical == [(1, 0, 9)]


def test_a_format_error_is_marked_where_the_trace_ended():
    malformed = episode(organizer(20, [("fork", 1, 2)], 20), worker(1, 2, 8, how="format_error"), format_error="x")
    assert Bar(1, 2, 8, "worker", 1, failed=True) in layout(malformed).bars


TEXT = "<FORK-1> 5 6 8 10 = 3</FORK-1><FORK-2> $\\frac{$ _y_</FORK-2><JOIN-1>"


@pytest.mark.parametrize(
    "one",
    [
        WAITING_TWICE,
        episode(
            organizer(18, EVENTS, 29, text=TEXT), worker(1, 4, 13, text="a<RETURN> b $</RETURN>"), worker(2, 6, 26)
        ),
        episode(organizer(9, [], 9), answer=" $\\frac{$ ( 5"),
        episode(organizer(0, [], 0), answer=None, score=None, format_error="no_answer"),
        episode(organizer(4, [("fork", 1, 4)], 4), worker(1, 4, 4, how="stopped")),
        episode(organizer(5, [], 5), organizer(9, [], 9), paradigm="parallel"),
    ],
)
def test_any_episode_can_be_drawn(tmp_path, one):
    path = tmp_path / "timeline.png"
    timeline.save_timeline(one, path)
    height, width = imread(path).shape[:2]
    assert width == 1800 and height > 300


def test_a_label_holds_sub_query_and_returned_text():
    text = "+ 11 8 19 <RETURN> ( 5 + 6 ) - 8 , 5 * 6</RETURN>"
    one = episode(organizer(18, EVENTS, 29, text=TEXT), worker(1, 4, 13, text=text), worker(2, 6, 26))
    assert worker_texts(one)[1] == ("5 6 8 10 = 3", "(5 + 6) - 8, 5 * 6")


def test_the_title_is_the_question_where_there_is_one_and_not_the_prompt_around_it():
    asked = episode(organizer(9, [], 9), problem={"question": "What is $ 6 * 7 $?"})
    texts = [[text.get_text() for text in timeline.draw(one).texts] for one in (asked, WAITING_TWICE)]
    assert "What is $ 6 * 7 $?" in texts[0] and "solve 5 6 8 10 = 3" in texts[1]
    instructed = episode(organizer(9, [], 9) | {"prompt": "You are the organizer. " * 20})
    assert "numbers [5, 6, 8, 10], target 3, n_solutions 4" in [
        text.get_text() for text in timeline.draw(instructed).texts
    ]
    long = timeline.draw(episode(organizer(9, [], 9), problem={"question": "why " * 40})).texts
    assert max(len(text.get_text()) for text in long if text.get_text().startswith("why")) <= 54
