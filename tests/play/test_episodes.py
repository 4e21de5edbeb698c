"""The numbers of a table, from scored episodes: by hand."""

import math
from types import SimpleNamespace

import pytest

from asyncthink_jax.play.episodes import summary


def episode(correct, answered=4, format_error=None, forks=2, path=100, decoded=(60, 50)):
    actions = ["fork"] * forks + ["join"] * forks + ["answer"]
    traces = [SimpleNamespace(decoded_tokens=n, events=[SimpleNamespace(action=a) for a in actions]) for n in decoded]
    score = {"correct": correct, "answered": answered, "wrong": answered - correct}
    happened = SimpleNamespace(format_error=format_error, critical_path=path, concurrency=0.5, traces=traces)
    return SimpleNamespace(episode=happened, score=score, reward=float(correct))


def test_means_are_over_episodes_and_errors_over_problems():
    # Two problems, two samples each.
    scores = summary([episode(4), episode(3, path=140), episode(2, forks=5), episode(0, answered=0)], 2, 4)
    assert scores["n"] == 4 and scores["all_correct"] == 0.25 and scores["accuracy"] == 9 / 16
    assert scores["at_least"] == {"1": 0.75, "2": 0.75, "3": 0.5, "4": 0.25}
    assert (scores["critical_path"], scores["forks"], scores["tokens"]) == (110, 11 / 4, 110)
    # Shares of the two problems: all correct 1/2 and 0, at least three 1 and 0, paths 120 and 100.
    expected = {"all_correct": 0.5, "at_least/4": 0.5, "at_least/3": 1, "at_least/2": 0.5, "critical_path": 20}
    for name, difference in expected.items():
        assert scores["stderr"][name] == pytest.approx(difference / math.sqrt(2) / math.sqrt(2)), name


def test_a_malformed_episode_counts_as_one_without_an_answer():
    scores = summary([episode(4), episode(4, answered=5, format_error="no_answer")], 1, 4)
    assert scores["format_error"] == scores["all_correct"] == scores["accuracy"] == scores["at_least"]["1"] == 0.5
    assert scores["wrong"] == 0
    assert summary([episode(3), episode(4, answered=4)], 1, 4)["wrong"] == 1 / 8


def test_more_than_was_asked_for_is_no_more_than_all():
    assert summary([episode(6, answered=6)], 1, 4)["accuracy"] == 1


def test_one_problem_has_no_spread():
    assert set(summary([episode(4), episode(0)], 2, 4)["stderr"].values()) == {0.0}
