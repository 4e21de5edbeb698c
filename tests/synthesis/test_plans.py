"""Sampled action sequences: every legal one, as often as documented, and nothing else."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.parser import Parser
from asyncthink_jax.synthesis.plans import FORK, PAUSE, Action, from_text, sample_plan, skeleton, to_text


def plans(n, fragments, grammar, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_plan(fragments, grammar, rng) for _ in range(n)]


def share(found, holds):
    return sum(map(holds, found)) / len(found)


def is_near(measured, probability, n):
    """Within five standard deviations of a frequency."""
    return abs(measured - probability) < 5 * math.sqrt(probability * (1 - probability) / n)


@given(st.integers(0, 6), st.integers(1, 5), st.integers(0, 6), st.integers(0, 2**32))
def test_a_plan_is_legal_and_takes_up_every_fragment_once(fragments, capacity, max_forks, seed):
    grammar = Grammar(capacity, max_forks)
    plan = sample_plan(fragments, grammar, np.random.default_rng(seed))
    tags = {"fork": "<FORK-{0}>x</FORK-{0}>", "join": "<JOIN-{0}>", "think": "y", "answer": "<ANSWER>z</ANSWER>"}
    parser = Parser("organizer", grammar)
    parser.feed("".join(tags[action.kind].format(action.fork_id) for action in plan))
    assert parser.done and not parser.error
    assert parser.used == parser.joined == set(range(1, len(parser.used) + 1))
    assert sorted(action.fragment for action in plan if action.fragment) == list(range(1, fragments + 1))
    assert [action.kind for action in plan].count("answer") == 1 and plan[-1].kind == "answer"


def legal_plans(fragments, workers, max_forks):
    """Every legal plan without free thinking, by trying all."""

    def go_on(plan, left, unjoined, forks):
        if not left and not unjoined:
            yield (*plan, Action("answer"))
        for fragment in left:
            rest = [one for one in left if one != fragment]
            yield from go_on((*plan, Action("think", fragment=fragment)), rest, unjoined, forks)
            if len(unjoined) < workers and forks < max_forks:
                fork = Action("fork", forks + 1, fragment)
                yield from go_on((*plan, fork), rest, [*unjoined, forks + 1], forks + 1)
        for fork_id in unjoined:
            rest = [one for one in unjoined if one != fork_id]
            yield from go_on((*plan, Action("join", fork_id)), left, rest, forks)

    return set(go_on((), list(range(1, fragments + 1)), [], 0))


@pytest.mark.parametrize(("workers", "max_forks"), [(0, 3), (1, 3), (2, 2), (2, 3)])
def test_every_legal_interleaving_is_sampled_and_no_other(workers, max_forks):
    legal = legal_plans(3, workers, max_forks)
    free = Action("think")
    found = plans(60 * len(legal), 3, Grammar(workers + 1, max_forks))
    assert {tuple(action for action in plan if action != free) for plan in found} == legal


def test_free_thinking_comes_at_the_start_and_after_joins_half_of_the_time():
    found = plans(2000, 3, Grammar(3, 4))
    free = Action("think")
    assert is_near(share(found, lambda plan: plan[0] == free), PAUSE, 2000)
    pairs = [pair for plan in found for pair in itertools.pairwise(plan)]
    after_join = [after == free for before, after in pairs if before.kind == "join"]
    assert is_near(sum(after_join) / len(after_join), PAUSE, len(after_join))
    assert all(before.kind == "join" for before, after in pairs if after == free)


def test_the_two_shapes_are_as_likely_as_the_documented_distribution_says():
    n = 4000
    found = [skeleton(plan) for plan in plans(n, 2, Grammar(3, 4))]
    # Both fragments forked, 9/16. Eagerness is uniform, so the second fork comes before the first join half the time,
    # and the two joins that follow come in each order half of that.
    both = FORK * FORK
    assert is_near(share(found, lambda one: one == ["fork 1", "join 1", "fork 2", "join 2"]), both / 2, n)
    assert is_near(share(found, lambda one: one == ["fork 1", "fork 2", "join 1", "join 2"]), both / 4, n)
    assert is_near(share(found, lambda one: one == ["fork 1", "fork 2", "join 2", "join 1"]), both / 4, n)
    assert is_near(share(found, lambda one: one == []), (1 - FORK) ** 2, n)


def test_fragments_are_taken_up_in_any_order_alike():
    firsts = [next(action.fragment for action in plan if action.fragment) for plan in plans(3000, 3, Grammar(3, 4))]
    for fragment in (1, 2, 3):
        assert is_near(firsts.count(fragment) / 3000, 1 / 3, 3000)


def test_a_plan_is_the_same_for_the_same_seed():
    assert plans(20, 4, Grammar(4, 6), seed=7) == plans(20, 4, Grammar(4, 6), seed=7)
    assert plans(20, 4, Grammar(4, 6), seed=7) != plans(20, 4, Grammar(4, 6), seed=8)


@given(st.integers(0, 6), st.integers(0, 2**32))
def test_a_plan_is_read_back_from_its_text(fragments, seed):
    plan = sample_plan(fragments, Grammar(4, 6), np.random.default_rng(seed))
    assert from_text(to_text(plan)) == plan


def test_a_line_that_is_no_action_is_refused():
    with pytest.raises(ValueError, match="'fork one' is no action; one is like 'fork 1 with fragment 2'"):
        from_text("think\nfork one\nanswer")
