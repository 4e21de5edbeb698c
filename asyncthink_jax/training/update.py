"""The training half of an RL iteration: scored episodes to new parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from asyncthink_jax.data import packing, pipeline
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.protocol.episode import Episode
from asyncthink_jax.training import rl, sft
from asyncthink_jax.training.experiment import Experiment
from asyncthink_jax.training.finite import Skips, check_episodes, check_logprobs
from asyncthink_jax.training.logprobs import OldLogprobs
from asyncthink_jax.training.state import Batch, OptimizerStep, TrainState


class Update:
    """Jitted for one run: an update is `optimizer_steps` optimizer steps, one a minibatch."""

    def __init__(self, experiment: Experiment, optimizer: Any, reference: Params | None, skips: Skips | None = None):
        self.experiment, self.config, self.reference = experiment, experiment.config.rl, reference
        self.skips = skips or Skips(0)
        self.recompute_logprobs = (
            self.config.recompute_logprobs or not experiment.config.rollout.from_whole_distribution
        )
        loss = rl.make_loss(experiment.model, self.config)
        self.step = OptimizerStep(
            loss, optimizer, experiment.mesh, self.config.microbatches, experiment.frozen, self.skips.allowed > 0
        )
        self.logprobs = OldLogprobs(
            experiment.model,
            self.config.temperature,
            self.config.loss_chunk,
            self.config.microbatches,
            experiment.mesh,
            experiment.frozen,
        )

    def __call__(
        self,
        state: TrainState,
        episodes: list[Episode],
        rng: np.random.Generator,
        poll: Callable[[], None] | None = None,
    ) -> tuple[TrainState, dict[str, Any]]:
        """One update.

        Args:
            state: is given away.
            episodes: `group_size` for each problem, in a row.
            rng: of what is left out and of the order of rows.
            poll: called before each step; may raise.

        Raises:
            NonFiniteError: a number isn't finite, and no update may be left out (`skips`).
        """
        config = self.config
        check_episodes(episodes)
        rewards = np.array([episode.reward for episode in episodes], float).reshape(-1, config.group_size)
        advantage = rl.advantages(config, rewards).reshape(-1)
        groups = np.arange(rewards.size).reshape(rewards.shape)  # problem -> its episodes
        batches: list[tuple[Batch, int]] = []  # packed rows, traces that didn't fit
        gaps: list[float] = []  # mean distance of the recorded log-probabilities to the trainer's, by minibatch
        for part in np.array_split(groups, config.optimizer_steps):
            chosen = part.reshape(-1)
            rows = rl.training_rows(config, [episodes[n] for n in chosen], advantage[chosen], rng)
            if not rows:
                continue
            for _ in range(config.imitated_demonstrations // config.optimizer_steps):
                shown = pipeline.drawn_traces(self.experiment.demonstrations, config.row_length, rng, work_only=True)
                rows += rl.imitated_rows(config, shown)
            batch, left_out = packing.pack(rows, config.row_length, config.rows)
            batch = sft.normalised(batch)
            # Here, before the first step: they are those of the policy that sampled.
            if self.recompute_logprobs:
                recorded, batch["old_logprobs"] = batch["old_logprobs"], np.asarray(self.logprobs(state.params, batch))
                sampled = batch["loss_weights"] * (1 - batch["imitated"])
                check_logprobs("the trainer's old", batch["old_logprobs"][sampled > 0])
                gaps.append(float(np.average(np.abs(batch["old_logprobs"] - recorded), weights=sampled)))
            if self.reference is not None:
                batch["reference_logprobs"] = np.asarray(self.logprobs(self.reference, batch))
                check_logprobs("the cold start's", batch["reference_logprobs"][batch["loss_weights"] > 0])
            batches.append((batch, len(left_out)))
        collected: list[dict[str, Any]] = []
        skipped = 0
        for batch, left_out_count in batches:
            if poll:
                poll()
            per_part = config.rows // config.microbatches
            filled = int(np.sum(batch["segment_ids"].any(axis=1)))
            state, numbers = self.step(state, batch, -(-filled // per_part))
            numbers = jax.device_get(numbers)
            if self.skips.skipped(numbers):
                skipped += 1
                continue
            collected.append({**numbers, "rows": filled, "traces_left_out": left_out_count})
        numbers = {"skipped": skipped} if skipped else {}
        if not collected:  # the rewards of every group are equal
            return state, numbers
        numbers |= {name: float(np.mean([part[name] for part in collected])) for name in collected[0]}
        if self.experiment.config.rollout.from_whole_distribution and not skipped:
            # Before the first update the trainer's forward pass must give what the sampler recorded.
            sampled = batches[0][0]["loss_weights"] * (1 - batches[0][0]["imitated"])
            numbers["replay_gap"] = gaps[0] if gaps else float(collected[0]["logprob_change"] / np.sum(sampled))
        return state, numbers
