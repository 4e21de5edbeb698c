"""An episode is the same alone, in a full batch, in another slot, and on eight devices."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from organizing import engine, episodes, run, settled
from scripted import facts

EPISODES = tuple(range(64))


@pytest.fixture(scope="module")
def in_a_batch():
    """Eight episodes side by side, four tokens fed a step."""
    return run(engine(), EPISODES)


def assert_same(rollout, other):
    alike = settled(other, EPISODES)
    for mine, its in itertools.compress(zip(episodes(rollout), episodes(other), strict=True), alike):
        assert facts(mine) == facts(its)
        for trace, its_trace in zip(mine.traces, its.traces, strict=True):
            np.testing.assert_allclose(trace.logprobs, its_trace.logprobs, atol=1e-5)


def test_these_episodes_fork_and_join(in_a_batch):
    played = episodes(in_a_batch)
    assert sum(len(episode.traces) > 2 for episode in played) >= 6
    assert sum(not episode.traces[0].sampled.all() for episode in played) >= 8
    assert len({tuple(episode.traces[0].tokens) for episode in played}) > 40


def test_an_episode_alone_is_the_same_as_in_a_batch(in_a_batch):
    # ... fed one token a step where it was four, from two caches, the workers' and the organizers', where it was one.
    assert_same(run(engine(slots=1, feed_width=1, split_cache=True), EPISODES), in_a_batch)


def test_an_episode_is_the_same_where_its_workers_wait_for_a_row(in_a_batch):
    assert_same(run(engine(worker_rows=1, split_cache=True), EPISODES), in_a_batch)


def test_an_episode_is_the_same_in_another_slot(in_a_batch):
    order = np.random.default_rng(0).permutation(len(EPISODES))
    shuffled = episodes(run(engine(), tuple(order.tolist())))
    alike, expected = settled(in_a_batch, EPISODES), episodes(in_a_batch)
    for place, n in enumerate(order):
        assert facts(shuffled[place]) == facts(expected[n]) or not alike[n]


def test_episodes_of_one_prompt_differ_by_their_numbers():
    # Else equal episodes would mean nothing.
    played = episodes(run(engine(), EPISODES, one_prompt=True))
    assert len({tuple(episode.traces[0].tokens) for episode in played}) > 40


@pytest.mark.slow
@pytest.mark.parametrize("agents", [2, 8])
def test_episodes_are_the_same_on_eight_devices(agents, tmp_path):
    on_one = run(engine(agents=agents), EPISODES)
    folder, result = Path(__file__).parent, tmp_path / "tokens.npz"
    program = """
import sys, numpy as np, jax
agents = int(sys.argv.pop())
sys.path[:0] = sys.argv[2:]
from organizing import KEY, engine, organizing_params, prompts, run
from asyncthink_jax.parallel.mesh import make_mesh
assert jax.device_count() == 8
own = engine(mesh=make_mesh(data=8), split_cache=True, agents=agents)
rollout = run(own, tuple(range(64)))
np.savez(sys.argv[1], tokens=rollout.tokens, sampled=rollout.sampled, logprobs=rollout.logprobs, **rollout.record)

# Submitted late, to places that are used again, beside some that are cancelled: the same.
session = own.open(organizing_params(), KEY, 1.0, room=16)
waiting, all_prompts, numbers = list(range(64)), prompts(64), {}
while waiting or session.pending:
    for n in waiting[:5]:
        numbers[session.submit(all_prompts[n], episode_id=n)] = n
    waiting = waiting[5:]
    session.cancel(session.submit(all_prompts[0]))
    for ticket in session.advance(6):
        one, n = session.take(ticket), numbers.pop(ticket)
        known = np.arange(rollout.tokens.shape[2]) < rollout.record["known"][n][:, None]
        np.testing.assert_array_equal(one.record["known"][0], rollout.record["known"][n])
        np.testing.assert_array_equal(one.tokens[0][known], rollout.tokens[n][known])
assert not numbers
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", program, str(result), str(folder), str(folder.parent / "protocol"), str(agents)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    there, alike = np.load(result), settled(on_one, EPISODES)
    for name, here in {"tokens": on_one.tokens, "sampled": on_one.sampled, **on_one.record}.items():
        np.testing.assert_array_equal(there[name][alike], here[alike], err_msg=name)
    np.testing.assert_allclose(there["logprobs"][alike], on_one.logprobs[alike], atol=1e-5)
