"""From problems to scored episodes (`play`), and from rewarded episodes to the numbers of a table (`summary`)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from asyncthink_jax.model.transformer import Params
from asyncthink_jax.parallel.multihost import gathered
from asyncthink_jax.play.run_model import RunModel
from asyncthink_jax.protocol import message
from asyncthink_jax.protocol.episode import Episode, side_by_side
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.tasks.task import Problem


@dataclasses.dataclass(frozen=True)
class Played:
    """Scored episodes, `repeats` for each problem (problem by problem), and the cost of decoding them."""

    episodes: list[Episode]
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
    merge: bool = True,
    progress: Callable[[int], None] | None = None,
    poll: Callable[[], None] | None = None,
) -> Played:
    """Decodes and scores `repeats` episodes a problem; they have no reward yet.

    Every process scores the episodes that ran on its own devices, and then has those of all: what follows, up to the
    rows of the next step, they all do alike.

    Args:
        params: in the rollout layout.
        key: of all random numbers; an episode's depend on it and on the episode's place alone.
        temperature: 0 = greedy.
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
    episodes: list[Episode] = []
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
        own = {int(n): _scored(run_model, rollout, i, part[n], paradigm) for i, n in enumerate(rollout.numbers)}
        episodes += [episode for _, episode in sorted(gathered(own, message.pack, message.unpack).items())]
        if progress:
            progress(len(episodes))
    if traces > 1:
        groups = [episodes[n : n + traces] for n in range(0, len(episodes), traces)]
        episodes = [_merged(run_model, group) for group in groups]
    steps = sum(rollout.engine_steps for rollout in rollouts)
    return Played(
        episodes=episodes,
        decoded_tokens=sum(trace.decoded_tokens for episode in episodes for trace in episode.traces),
        engine_steps=steps,
        occupancy=sum(r.occupancy * r.engine_steps for r in rollouts) / max(1, steps),
    )


def _scored(run_model: RunModel, rollout: Rollout, n: int, problem: Problem, paradigm: str) -> Episode:
    answer = rollout.answer(n, run_model.tokenizer.vocabulary)
    return rollout.episode(
        n,
        task=run_model.config.task.name,
        problem=problem.to_json(),
        paradigm=paradigm,
        seed=run_model.config.seed,
        answer=answer,
        score=dict(run_model.config.task.score(problem, answer)),
        reward=None,
    )


def _merged(run_model: RunModel, group: list[Episode]) -> Episode:
    """Independent traces as one episode of the parallel paradigm, their answers merged as the task does it."""
    task = run_model.config.task
    answer = task.merge([episode.answer for episode in group])
    return side_by_side(group, answer, dict(task.score(task.from_json(group[0].problem), answer)))


def summary(episodes: Sequence[Episode], samples: int, wanted: int) -> dict[str, Any]:
    """Means over all episodes, and standard errors over problems (of which each has `samples` episodes in a row).

    `wanted` is `Task.wanted`. `wrong` is the share of the answered parts that are wrong or repeated, over all episodes
    together. An episode with a format error counts as one without an answer.
    """
    well_formed = np.array([episode.format_error is None for episode in episodes])
    correct = np.array([episode.score["correct"] for episode in episodes]) * well_formed  # type: ignore[index]
    columns: dict[str, np.ndarray] = {
        "all_correct": correct >= wanted,
        "accuracy": np.minimum(correct, wanted) / wanted,
        "critical_path": np.array([episode.critical_path for episode in episodes]),
        "concurrency": np.array([episode.concurrency for episode in episodes]),
        "format_error": ~well_formed,
        "reward": np.array([episode.reward for episode in episodes], float),
        "forks": np.array([sum(event.action == "fork" for event in e.traces[0].events) for e in episodes]),
        "tokens": np.array([sum(trace.decoded_tokens for trace in episode.traces) for episode in episodes]),
    }
    answered = sum(episode.score["answered"] for episode in episodes if episode.format_error is None)  # type: ignore[index]
    wrong = sum(episode.score["wrong"] for episode in episodes if episode.format_error is None)  # type: ignore[index]
    at_least = {str(k): correct >= k for k in range(1, wanted + 1)}

    def error(values: np.ndarray) -> float:
        by_problem = values.astype(float).reshape(-1, samples).mean(axis=1)
        return float(by_problem.std(ddof=1) / np.sqrt(len(by_problem))) if len(by_problem) > 1 else 0.0

    return {
        "n": len(episodes),
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
