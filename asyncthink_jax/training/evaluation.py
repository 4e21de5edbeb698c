"""The numbers of a table: parameters scored on a split."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from asyncthink_jax.model.transformer import Params
from asyncthink_jax.play.episodes import play, summary
from asyncthink_jax.protocol.episode import Attempt
from asyncthink_jax.training import grpo
from asyncthink_jax.training.experiment import Experiment


def evaluate(
    experiment: Experiment,
    params: Params,
    split: str,
    temperature: float,
    problems: int = 0,
    samples: int = 1,
    progress: Callable[[int], None] | None = None,
    poll: Callable[[], None] | None = None,
) -> tuple[dict[str, Any], list[Attempt]]:
    """Scores `params` (training layout) on the first `problems` of a split (0 = all). Greedy takes one sample.

    The accuracy of several samples also stands under the name that it has elsewhere, avg@k. Where the task parts its
    problems (`Task.group`), the scores of each part stand in `groups`.
    """
    chosen = experiment.splits[split][: problems or None]
    samples = samples if temperature > 0 else 1
    key = jax.random.fold_in(jax.random.key(experiment.config.seed), 1_000_003)  # apart from the keys of training
    rollout_params = experiment.to_rollout_layout(params)
    reward = functools.partial(grpo.reward, experiment.config.rl)
    attempts = play(
        experiment, rollout_params, chosen, samples, key, temperature, reward, progress=progress, poll=poll
    ).attempts
    task = experiment.config.task

    def scores(attempts: Sequence[Attempt]) -> dict[str, Any]:
        numbers = summary(attempts, samples, task.wanted) | {"temperature": temperature, "samples": samples}
        if samples > 1:
            numbers[f"avg@{samples}"] = numbers["accuracy"]
            numbers["stderr"][f"avg@{samples}"] = numbers["stderr"]["accuracy"]
        return numbers

    parts: dict[str, list[Attempt]] = {}
    for n, problem in enumerate(chosen):
        parts.setdefault(task.group(problem), []).extend(attempts[n * samples : (n + 1) * samples])
    groups = {name: scores(part) for name, part in sorted(parts.items())} if len(parts) > 1 else {}
    return {**scores(attempts), "split": split, **({"groups": groups} if groups else {})}, attempts
