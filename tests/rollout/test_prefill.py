"""Prompts that are read at once: the same episodes in fewer steps, and a prompt that many have is read once."""

import numpy as np
import pytest
from organizing import engine, prompts, run, settled

EPISODES = tuple(range(40))


def assert_same_episodes(one, other, episode_ids=EPISODES):
    alike = settled(one, episode_ids)
    for field in ("tokens", "sampled", "steps"):
        np.testing.assert_array_equal(getattr(one, field)[alike], getattr(other, field)[alike], err_msg=field)
    np.testing.assert_allclose(one.logprobs[alike], other.logprobs[alike], atol=1e-5)
    for name in one.record:
        np.testing.assert_array_equal(one.record[name][alike], other.record[name][alike], err_msg=name)


@pytest.mark.parametrize("split_cache", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_episode_is_the_same_whether_its_prompt_is_read_at_once_or_by_and_by(split_cache):
    by_and_by = run(engine(feed_width=1, split_cache=split_cache), EPISODES)
    at_once = run(engine(feed_width=1, split_cache=split_cache, prefill=2), EPISODES)
    assert by_and_by.prefills == 0 < at_once.prefills
    assert_same_episodes(by_and_by, at_once)
    assert at_once.engine_steps < by_and_by.engine_steps


def test_a_prompt_that_all_episodes_have_is_read_once():
    rollout = run(engine(prefill=2), EPISODES, one_prompt=True)
    assert rollout.prefills == 1
    assert_same_episodes(run(engine(), EPISODES, one_prompt=True), rollout)


@pytest.mark.slow
def test_more_prompts_than_are_kept_are_read_again_when_they_come_back():
    # Two slots keep one prompt: four prompts in turn are read each time.
    few = [prompts(40)[n % 4] for n in EPISODES]
    assert len(set(map(tuple, few))) == 4
    rollout = run(engine(slots=2, prefill=2), tuple(n % 4 for n in EPISODES))
    assert rollout.prefills > 4
    ids = tuple(n % 4 for n in EPISODES)
    assert_same_episodes(run(engine(slots=2), ids), rollout, ids)


def test_short_prompts_are_left_to_the_steps():
    lengths = [len(prompt) for prompt in prompts(40)]
    long = sum(length >= 6 for length in lengths)
    assert 0 < long < len(lengths)
    rollout = run(engine(prefill=6), EPISODES)
    assert rollout.prefills == len({tuple(prompt) for prompt in prompts(40) if len(prompt) >= 6})
    assert_same_episodes(run(engine(), EPISODES), rollout)
