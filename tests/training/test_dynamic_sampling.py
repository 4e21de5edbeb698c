"""Dynamic sampling (DAPO, arXiv:2503.14476): groups of equal rewards do not train, others are sampled instead."""

import os
import signal
import subprocess
import sys

import numpy as np
import optax
import pytest
from runs import what_is_left
from test_train import SHORTENED

from asyncthink_jax.config import RLConfig, load
from asyncthink_jax.data import pipeline
from asyncthink_jax.training import experiment as experiment_lib
from asyncthink_jax.training import grpo
from experiments.run_end import first_difference

FLAGS = [
    "rl.groups=unequal",
    "rl.prompts=4",
    "rl.group_size=2",
    "rl.max_rollouts=5",
    "checkpoint.every_rl_iterations=2",
]


def test_a_group_is_kept_unless_its_rewards_are_equal():
    rewards = np.array([[0.1, 0.1, 0.1], [0.0, 1.0, 1.0], [-3.0, -3.0, -3.0], [0.0, np.nan, 0.0]])
    assert grpo.kept(RLConfig(groups="unequal"), rewards).tolist() == [False, True, False, True]
    assert grpo.kept(RLConfig(), rewards).all()


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Samples for an iteration, where an episode earns what `reward` says of the sum of its tokens.

    Returns the rollouts, and the rewards [groups, G] of all of them and of those that are trained on.
    """
    folder = tmp_path_factory.mktemp("run")
    (folder / "shortened.py").write_text(SHORTENED)
    built = experiment_lib.build(load(folder / "shortened.py", FLAGS), folder)
    params, algorithm = built.new_params(), grpo.Grpo(built, optax.sgd(0.1), None)
    problems = pipeline.problem_iterator(built.splits["train"], 0)

    def sample(reward, number=1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                grpo, "reward", lambda _, episode, score: reward(sum(int(t.tokens.sum()) for t in episode.traces))
            )
            before = problems.get_state()["next_index"]
            rollouts, chosen = algorithm.sample(number, params, problems, lambda: None)
            assert problems.get_state()["next_index"] == before + 4 * len(rollouts)
        attempts = [attempt for one in rollouts for attempt in one.attempts]
        earned, trained = (np.array([one.reward for one in part]).reshape(-1, 2) for part in (attempts, chosen))
        return rollouts, earned, trained

    return sample


def test_problems_are_sampled_until_enough_groups_have_unequal_rewards(sampled):
    counts = []
    for number in range(1, 6):
        rollouts, earned, trained = sampled(lambda tokens: float(tokens % 3 == 0), number)
        unequal = np.ptp(earned, axis=1) > 0
        np.testing.assert_array_equal(trained, earned[unequal][:4])
        assert np.count_nonzero(unequal[:-4]) < 4, "one rollout less was not enough"
        assert len(trained) == 4 or len(rollouts) == 5
        counts.append(len(rollouts))
    assert max(counts) > 1 and min(counts) < 5


def test_after_the_last_rollout_fewer_groups_are_trained_on_or_none(sampled):
    rollouts, _, trained = sampled(lambda tokens: 1.0)
    assert len(rollouts) == 5 and len(trained) == 0


def test_every_rollout_of_an_iteration_has_random_numbers_of_its_own(sampled):
    # The model is untrained: with the same random numbers it draws much the same tokens after any prompt.
    rollouts, _, _ = sampled(lambda tokens: 1.0)
    first_tokens = np.array([[attempt.episode.traces[0].tokens[0] for attempt in one.attempts] for one in rollouts])
    assert np.mean(first_tokens[1:] == first_tokens[:-1]) < 0.3


PROGRAM = """
import os
import signal

from asyncthink_jax import command, train
from asyncthink_jax.training import grpo

rollout = grpo.Grpo.rollout


def dies(self, number, place, *rest):
    if number == 4 and place and "DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return rollout(self, number, place, *rest)


grpo.Grpo.rollout = dies
grpo.reward = lambda config, episode, score: float(sum(int(trace.tokens.sum()) for trace in episode.traces) % 5 == 0)
command.run(train.main)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_between_two_rollouts_of_an_iteration_ends_with_the_bits_of_an_undisturbed_one(tmp_path):
    (tmp_path / "shortened.py").write_text(SHORTENED)
    (tmp_path / "program.py").write_text(PROGRAM)
    settings = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    flags = [*FLAGS, "sft.steps=10", "rl.iterations=6", "checkpoint.every_rl_iterations=2"]

    def run(name, **environment):
        command = [sys.executable, tmp_path / "program.py", "--config", tmp_path / "shortened.py"]
        command += ["--workdir", tmp_path / name, "--noevaluate", *(f"--config.{flag}" for flag in flags)]
        return subprocess.run(command, env=os.environ | settings | environment, check=False).returncode

    assert run("undisturbed") == 0
    assert run("killed", DIES="1") == -signal.SIGKILL
    assert run("killed") == 0
    config = load(tmp_path / "shortened.py", flags)
    undisturbed = what_is_left(config, tmp_path / "undisturbed")
    assert first_difference(what_is_left(config, tmp_path / "killed"), undisturbed) == ""
    lines = [line for line in undisturbed[1]["metrics"] if line["stage"] == "rl"]
    assert max(line["rollouts"] for line in lines) > 1 and max(line["groups"] for line in lines) > 0
