"""From problems to scored episodes (`play`), and from these to the numbers of a table (`summary`)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from asyncthink_jax.model.transformer import Params
from asyncthink_jax.parallel.multihost import gathered
from asyncthink_jax.play.run_model import RunModel
from asyncthink_jax.protocol import message
from asyncthink_jax.protocol.episode import Attempt, Episode, side_by_side
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.tasks.task import Problem

Reward = Callable[[Episode, dict[str, Any]], float]  # of an episode and its score


@dataclasses.dataclass(frozen=True)
class Played:
    """Attempts, `repeats` for each problem (problem by problem), and the cost of decoding them."""

    attempts: list[Attempt]
    decoded_tokens: int
    engine_steps: int
    occupancy: float  # share of row-steps that sampled a token


def play(
    run_model: RunModel,
    params: Params,
    problems: Sequence[Problem],
    repeats: int,
    key: Key[Array, ""],
    temperature: float,
    reward: Reward,
    merge: bool = True,
    progress: Callable[[int], None] | None = None,
    poll: Callable[[], None] | None = None,
) -> Played:
    """Decodes and scores `repeats` episodes a problem.

    Every process scores the episodes that ran on its own devices, and then has those of all: what follows, up to the
    rows of the next step, they all do alike.

    Args:
        params: in the rollout layout.
        key: of all random numbers; an episode's depend on it and on the episode's place alone.
        temperature: 0 = greedy.
        reward: what an episode with its score is worth.
        merge: in the parallel paradigm an episode is `pool.parallel_traces` independent traces and one merged answer;
            False takes single traces instead, as training does.
        progress: called with the number of traces decoded so far.
        poll: called now and then meanwhile; may raise, to give it up.
    """
    config = run_model.config
    paradigm = config.paradigm if merge or config.paradigm != "parallel" else "sequential"
    traces = config.pool.parallel_traces if paradigm == "parallel" else 1
    owners = [problem for problem in problems for _ in range(repeats * traces)]
    # Calls of one size, so that training, validation and evaluation share their compilation.
    size = max(config.rollout.slots, config.rl.prompts * config.rl.group_size)
    attempts: list[Attempt] = []
    rollouts: list[Rollout] = []
    for start in range(0, len(owners), size):
        if poll:
            poll()
        part = owners[start : start + size]
        rollout = run_model.engine.run(
            params,
            [run_model.prompt(problem) for problem in part],
            key,
            temperature,
            episode_ids=list(range(start, start + len(part))),
            rounds=-(-size // config.rollout.slots),
            poll=poll,
        )
        rollouts.append(rollout)
        own = {}
        for i, n in enumerate(rollout.numbers.tolist()):
            episode = rollout.episode(i, run_model.tokenizer.vocabulary, paradigm)
            own[n] = _attempt(run_model, part[n], episode, reward)
        attempts += [attempt for _, attempt in sorted(gathered(own, message.pack, message.unpack).items())]
        if progress:
            progress(len(attempts))
    decoded_tokens = sum(trace.decoded_tokens for attempt in attempts for trace in attempt.episode.traces)
    if traces > 1:
        groups = [attempts[n : n + traces] for n in range(0, len(attempts), traces)]
        attempts = [_merged(run_model, owners[n * traces], group, reward) for n, group in enumerate(groups)]
    steps = sum(rollout.engine_steps for rollout in rollouts)
    return Played(
        attempts=attempts,
        decoded_tokens=decoded_tokens,
        engine_steps=steps,
        occupancy=sum(r.occupancy * r.engine_steps for r in rollouts) / max(1, steps),
    )


def _attempt(run_model: RunModel, problem: Problem, episode: Episode, reward: Reward) -> Attempt:
    task, seed = run_model.config.task, run_model.config.seed
    score = dict(task.score(problem, episode.answer))
    return Attempt(task.name, problem.to_json(), seed, episode, score, reward(episode, score))


def _merged(run_model: RunModel, problem: Problem, group: Sequence[Attempt], reward: Reward) -> Attempt:
    """Independent traces as one episode of the parallel paradigm, their answers merged as the task does it."""
    episodes = [attempt.episode for attempt in group]
    answer = run_model.config.task.merge([episode.answer for episode in episodes])
    return _attempt(run_model, problem, side_by_side(episodes, answer), reward)


def summary(attempts: Sequence[Attempt], samples: int, wanted: int) -> dict[str, Any]:
    """Means over all attempts, and standard errors over problems (of which each has `samples` attempts in a row).

    `wanted` is `Task.wanted`. `wrong` is the share of the answered parts that are wrong or repeated, over all attempts
    together. An episode with a format error counts as one without an answer.
    """
    episodes, scores = [attempt.episode for attempt in attempts], [attempt.score or {} for attempt in attempts]
    well_formed = np.array([episode.format_error is None for episode in episodes])
    correct = np.array([score["correct"] for score in scores]) * well_formed
    columns: dict[str, np.ndarray] = {
        "all_correct": correct >= wanted,
        "accuracy": np.minimum(correct, wanted) / wanted,
        "critical_path": np.array([episode.critical_path for episode in episodes]),
        "concurrency": np.array([episode.concurrency for episode in episodes]),
        "format_error": ~well_formed,
        "reward": np.array([attempt.reward for attempt in attempts], float),
        "forks": np.array([sum(event.action == "fork" for event in e.traces[0].events) for e in episodes]),
        "tokens": np.array([sum(trace.decoded_tokens for trace in episode.traces) for episode in episodes]),
    }
    answered, wrong = (
        sum(score[name] for score, counts in zip(scores, well_formed, strict=True) if counts)
        for name in ("answered", "wrong")
    )
    at_least = {str(k): correct >= k for k in range(1, wanted + 1)}

    def error(values: np.ndarray) -> float:
        by_problem = values.astype(float).reshape(-1, samples).mean(axis=1)
        return float(by_problem.std(ddof=1) / np.sqrt(len(by_problem))) if len(by_problem) > 1 else 0.0

    return {
        "n": len(attempts),
        **{name: float(values.mean()) for name, values in columns.items()},
        "wrong": wrong / max(1, answered),
        "at_least": {k: float(values.mean()) for k, values in at_least.items()},
        "stderr": {
            **{name: error(values) for name, values in columns.items()},
            **{f"at_least/{k}": error(values) for k, values in at_least.items()},
        },
    }


def means(scores: dict[str, Any]) -> dict[str, float]:
    """The plain numbers of a summary, under the names of storage/metrics.py."""
    return {name: value for name, value in scores.items() if isinstance(value, float)}
