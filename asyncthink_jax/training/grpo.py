"""Stage 2, reinforcement learning: GRPO over episodes of many traces (paper, section 4). Start reading here.

One iteration is `Grpo.iteration`:

    1. rollout     decode every problem of the batch `group_size` times                   `Grpo.sample`, `kept`
    2. reward      accuracy + lambda * concurrency, or a penalty for a format error       `reward`
    3. advantage   reward minus the mean of its group, one number an episode              `advantages`
    4. rows        every trace is a row; all its decoded tokens share that number         `training_rows`, `aggregated`
    5. update      the clipped policy gradient, in `optimizer_steps` minibatches          `make_loss`, `ratios`

What differs from GRPO as first published (arXiv:2402.03300) because the paper says so:

- The sample is an episode: the organizer and all its workers share one reward and one advantage.
- Text that a Join inserts is read but not trained.

What differs because the paper leaves it open (`RLConfig` has the switches):

- No division by the group's deviation. No KL penalty, hence no reference model.
- The loss is a mean over the decoded tokens of an optimizer step, not over each sample first (`aggregation`). Episodes
  without an advantage are no part of the mean.
- The upper clip is wider than the lower one.

What is left out: a second pass over a rollout's episodes, and rollouts by any but the latest parameters. What is not in
the paper at all, and off by default: three more terms of the reward (`reward`), and demonstrations imitated beside the
episodes (`imitated_rows`).
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from asyncthink_jax.config import RLConfig
from asyncthink_jax.data import packing, pipeline
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.play.episodes import Played, means, play, summary
from asyncthink_jax.protocol.episode import Attempt, Episode, Trace
from asyncthink_jax.tasks.task import Problem
from asyncthink_jax.training import sft
from asyncthink_jax.training.experiment import Experiment
from asyncthink_jax.training.finite import Skips, check_attempts, check_logprobs
from asyncthink_jax.training.logprobs import OldLogprobs, token_logprobs
from asyncthink_jax.training.optimizer_step import Batch, OptimizerStep, TrainState

Poll = Callable[[], None]  # called now and then; may raise, to give up what is under way
MEANS = ("entropy", "clipped", "logprob_change", "kl")  # numbers of a step that are means over its tokens


class Grpo:
    """The iterations of one run; their programs are compiled once.

    Args:
        experiment: the parts of the run.
        optimizer: of the trained parameters.
        reference: the parameters that a KL penalty pulls towards; None without one.
        skips: counts updates that are left out because they aren't finite.
    """

    def __init__(self, experiment: Experiment, optimizer: Any, reference: Params | None, skips: Skips | None = None):
        self.experiment, self.config, self.reference = experiment, experiment.config.rl, reference
        self.skips = skips or Skips(0)
        config, model, mesh, frozen = self.config, experiment.model, experiment.mesh, experiment.frozen
        self.recompute_logprobs = config.recompute_logprobs or not experiment.config.rollout.from_whole_distribution
        self.step = OptimizerStep(
            make_loss(model, config), optimizer, mesh, config.microbatches, frozen, self.skips.allowed > 0
        )
        self.logprobs = OldLogprobs(model, config.temperature, config.loss_chunk, config.microbatches, mesh, frozen)

    def iteration(
        self, number: int, state: TrainState, problems: Iterator[Problem], poll: Poll, may_stop: bool
    ) -> tuple[TrainState, dict[str, Any]]:
        """One iteration: the next problems, the episodes of this policy, the policy after them.

        Args:
            number: of the iteration, from 1; with the seed it decides all random numbers.
            state: is donated to the update.
            problems: the next ones are taken.
            poll: called during the rollout and, with `may_stop`, between optimizer steps.
            may_stop: whether an update may be given up, since its `state` can be read back from disk.

        Returns:
            The state after it, and the iteration's metrics.

        Raises:
            NonFiniteError: a number isn't finite, and no further update may be left out (`skips`).
        """
        config, started = self.config, time.monotonic()
        rollouts, chosen = self.sample(number, state.params, problems, poll)
        rolled_out = time.monotonic()
        rng = np.random.default_rng((self.experiment.config.seed, number))
        state, numbers = self.learn(state, chosen, rng, poll if may_stop else None)
        attempts = [attempt for one in rollouts for attempt in one.attempts]  # those that train are no fair sample
        numbers |= means(summary(attempts, config.group_size, self.experiment.config.task.wanted))
        if config.groups != "all":
            numbers |= {"rollouts": len(rollouts), "groups": len(chosen) // config.group_size}
        numbers["occupancy"] = float(np.mean([one.occupancy for one in rollouts]))
        numbers["rollout_seconds"] = rolled_out - started
        numbers["update_seconds"] = time.monotonic() - rolled_out
        decoded = sum(one.decoded_tokens for one in rollouts)
        numbers["tokens_per_second"] = decoded / (time.monotonic() - started)
        return state, numbers

    def sample(
        self, number: int, params: Params, problems: Iterator[Problem], poll: Poll
    ) -> tuple[list[Played], list[Attempt]]:
        """Steps 1 and 2: rollouts of an iteration, and of their attempts the groups that are trained on.

        One rollout, or with `groups` other than "all" up to `max_rollouts`, until `prompts` groups are kept. Groups
        beyond that are dropped, so that all that the next iteration depends on is the state of `problems`.
        """
        config = self.config
        params = self.experiment.to_rollout_layout(params)
        rollouts: list[Played] = []
        chosen: list[Attempt] = []
        wanted = config.prompts * config.group_size
        while len(chosen) < wanted and len(rollouts) < (1 if config.groups == "all" else config.max_rollouts):
            played = self.rollout(number, len(rollouts), params, problems, poll)
            rewards = np.array([attempt.reward for attempt in played.attempts], float).reshape(-1, config.group_size)
            keep = np.repeat(kept(config, rewards), config.group_size)
            chosen += itertools.compress(played.attempts, keep)
            rollouts.append(played)
        return rollouts, chosen[:wanted]

    def rollout(self, number: int, place: int, params: Params, problems: Iterator[Problem], poll: Poll) -> Played:
        """Rollout `place` (from 0) of iteration `number`: `prompts` problems, `group_size` episodes of each in a row.

        `params` are in the rollout layout.
        """
        experiment, config = self.experiment, self.config
        chosen = [next(problems) for _ in range(config.prompts)]
        # Apart from each other, and from the key of evaluation, which is 1_000_003.
        key = jax.random.fold_in(jax.random.key(experiment.config.seed), number + 2_000_003 * place)
        worth = functools.partial(reward, config)
        return play(
            experiment, params, chosen, config.group_size, key, config.temperature, worth, merge=False, poll=poll
        )

    def learn(
        self, state: TrainState, attempts: Sequence[Attempt], rng: np.random.Generator, poll: Poll | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Steps 3 to 5: from attempts, `group_size` at each problem in a row, to new parameters.

        Args:
            state: is donated.
            attempts: with rewards.
            rng: decides which workers train and which demonstrations are imitated.
            poll: called before each optimizer step.

        Raises:
            NonFiniteError: as `iteration`.
        """
        config = self.config
        check_attempts(attempts)
        rewards = np.array([attempt.reward for attempt in attempts], float).reshape(-1, config.group_size)
        advantage = advantages(config, rewards).reshape(-1)
        groups = np.arange(rewards.size).reshape(rewards.shape)  # problem -> its episodes
        minibatches = []
        for part in np.array_split(groups, config.optimizer_steps):
            chosen = part.reshape(-1).tolist()
            rows = training_rows(config, [attempts[n].episode for n in chosen], advantage[chosen].tolist(), rng)
            if rows:  # else the rewards of every group are equal
                minibatches.append(self.batch(state.params, rows, rng))
        return self.update(state, minibatches, poll)

    def batch(self, params: Params, rows: list[packing.Trace], rng: np.random.Generator) -> "Minibatch":
        """Step 4: the rows of an optimizer step, packed, with all that the loss needs beside the parameters.

        Every minibatch of an iteration is made before its first step: old log-probabilities are of the policy that
        sampled.
        """
        config = self.config
        for _ in range(config.imitated_demonstrations // config.optimizer_steps):
            shown = pipeline.drawn_traces(self.experiment.demonstrations, config.row_length, rng, work_only=True)
            rows = rows + imitated_rows(config, shown)
        batch, left_out = packing.pack(rows, config.row_length, config.rows)
        batch = step_weights(config, batch)
        sampled = batch["loss_weights"] * (1 - batch["imitated"])
        gap = None
        if self.recompute_logprobs:
            recorded, batch["old_logprobs"] = batch["old_logprobs"], np.asarray(self.logprobs(params, batch))
            check_logprobs("the trainer's old", batch["old_logprobs"][sampled > 0])
            gap = float(np.average(np.abs(batch["old_logprobs"] - recorded), weights=sampled))
        if self.reference is not None:
            batch["reference_logprobs"] = np.asarray(self.logprobs(self.reference, batch))
            check_logprobs("the cold start's", batch["reference_logprobs"][batch["loss_weights"] > 0])
        weight = float(batch["loss_weights"].sum()) if config.aggregation == "constant" else 1.0
        return Minibatch(batch, weight, np.sum(sampled) / weight, len(left_out), gap)

    def update(
        self, state: TrainState, minibatches: Sequence["Minibatch"], poll: Poll | None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Step 5: one optimizer step a minibatch. Returns means over the steps; of none, if nothing was to be learned.

        Before the first step the trainer's forward pass has to give the log-probabilities that the sampler recorded:
        `replay_gap` is how far apart they are.
        """
        collected: list[dict[str, Any]] = []
        skipped = 0
        for minibatch in minibatches:
            if poll:
                poll()
            filled = int(np.sum(minibatch.rows["segment_ids"].any(axis=1)))
            per_part = self.config.rows // self.config.microbatches
            state, measured = self.step(state, minibatch.rows, -(-filled // per_part))
            numbers: dict[str, Any] = jax.device_get(measured)
            numbers |= {name: numbers[name] / minibatch.weight for name in MEANS if name in numbers}
            if self.skips.skipped(numbers):
                skipped += 1
            else:
                collected.append({**numbers, "rows": filled, "traces_left_out": minibatch.left_out})
        numbers = {"skipped": skipped} if skipped else {}
        if not collected:
            return state, numbers
        numbers |= {name: float(np.mean([one[name] for one in collected])) for name in collected[0]}
        if self.experiment.config.rollout.from_whole_distribution and not skipped:
            first = minibatches[0]
            change = float(collected[0]["logprob_change"] / first.sampled)
            numbers["replay_gap"] = change if first.gap is None else first.gap
        return state, numbers


@dataclasses.dataclass(frozen=True)
class Minibatch:
    """The packed rows of one optimizer step.

    Attributes:
        rows: channels [B, L], see `training_rows`.
        weight: what their `loss_weights` add up to.
        sampled: the share of it that is of sampled tokens; the rest is of imitated ones.
        left_out: traces that found no room.
        gap: mean distance of the sampler's log-probabilities to the trainer's, where these were computed.
    """

    rows: dict[str, np.ndarray]
    weight: float
    sampled: float
    left_out: int
    gap: float | None


# --------------------------------------------------------------------------------------------------------- 2. reward


def reward(config: RLConfig, episode: Episode, score: Mapping[str, Any]) -> float:
    """R_FE for a malformed episode, else R_A + lambda * min(eta / c, tau) / tau (paper, section 4).

    Three options that the paper has not, all off by default: R_eta in proportion to R_A, a bonus where everything asked
    for was found, and a penalty for the share of the answered expressions that is wrong. `train` takes no R_FE above
    what that penalty leaves of an answer that is all wrong: a format error would be the better way out.
    """
    if episode.format_error is not None:
        return config.format_penalty
    concurrency = min(episode.concurrency, config.tau) / config.tau
    if config.concurrency_times_accuracy:
        concurrency *= score["accuracy"]
    total = score["accuracy"] + config.concurrency_weight * concurrency
    total += config.all_correct_bonus * (score["accuracy"] == 1.0)
    return total - config.wrong_penalty * score.get("wrong", 0) / max(1, score.get("answered", 0))


def kept(config: RLConfig, rewards: Float[np.ndarray, "P G"]) -> np.ndarray:
    """Which of P groups are trained on, bool [P]: all, or those with an advantage (DAPO, arXiv:2503.14476)."""
    if config.groups == "all":
        return np.ones(len(rewards), bool)
    return np.ptp(rewards, axis=1) != 0  # one that isn't a number is kept: it ends the run


# ------------------------------------------------------------------------------------------------------ 3. advantage


def advantages(config: RLConfig, rewards: Float[np.ndarray, "P G"]) -> Float[np.ndarray, "P G"]:
    """Group-relative advantages of P problems with G episodes each; a group of equal rewards has none."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    centred[np.ptp(rewards, axis=1) == 0] = 0.0  # no rounding residue: such a group moves nothing
    if config.std_normalise:
        centred = centred / (rewards.std(axis=1, keepdims=True) + 1e-6)
    return centred


# ----------------------------------------------------------------------------------------------------------- 4. rows


def training_rows(
    config: RLConfig, episodes: Sequence[Episode], advantage: Sequence[float], rng: np.random.Generator
) -> list[packing.Trace]:
    """One row for each trace: its tokens, what trains (what the agent decoded itself), advantage, old log-probability.

    Tokens that a Join inserted have weight 0, a worker's tokens `worker_weight`. Of the workers' traces a random share
    `worker_keep` is kept. An episode without advantage has no gradient and is left out.
    """
    rows: list[packing.Trace] = []
    for episode, value in zip(episodes, advantage, strict=True):
        if value == 0:
            continue
        traces = [trace for trace in episode.traces if _trains(config, trace, rng)]
        weights = [t.sampled * np.float32(config.worker_weight if t.role == "worker" else 1.0) for t in traces]
        for trace, weight in zip(traces, aggregated(config, weights), strict=True):
            rows.append(
                {
                    "tokens": np.concatenate([trace.prompt, trace.tokens]),
                    "loss_weights": _after_prompt(trace.prompt, weight),
                    "advantages": _after_prompt(trace.prompt, trace.sampled * np.float32(value)),
                    "old_logprobs": _after_prompt(trace.prompt, trace.logprobs),
                    "imitated": np.zeros(len(trace.prompt) + len(trace.tokens), np.float32),
                }
            )
    return rows


def _trains(config: RLConfig, trace: Trace, rng: np.random.Generator) -> bool:
    if trace.role == "worker" and (config.worker_weight == 0 or rng.random() >= config.worker_keep):
        return False
    return trace.decoded_tokens > 0


def _after_prompt(prompt: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(len(prompt), np.float32), values.astype(np.float32)])


def imitated_rows(config: RLConfig, traces: Sequence[packing.Trace]) -> list[packing.Trace]:
    """Rows for the traces of a demonstration (tokens and loss weights): no advantage, and marked `imitated`."""
    weights = aggregated(config, [trace["loss_weights"] * np.float32(config.imitation_weight) for trace in traces])
    return [
        {
            "tokens": trace["tokens"],
            "loss_weights": weight,
            "advantages": np.zeros(len(trace["tokens"]), np.float32),
            "old_logprobs": np.zeros(len(trace["tokens"]), np.float32),
            "imitated": np.ones(len(trace["tokens"]), np.float32),
        }
        for trace, weight in zip(traces, weights, strict=True)
    ]


def aggregated(config: RLConfig, weights: list[Float[np.ndarray, "..."]]) -> list[Float[np.ndarray, "..."]]:
    """The loss weights of the tokens of one episode's traces, so that what `aggregation` names counts the same.

    Each trace ("trace-mean"), the episode ("episode-mean"), else each token. `step_weights` does the rest.
    """
    counts = [max(1, int(np.count_nonzero(weight))) for weight in weights]
    if config.aggregation == "trace-mean":
        return [weight / np.float32(count) for weight, count in zip(weights, counts, strict=True)]
    if config.aggregation == "episode-mean":
        return [weight / np.float32(sum(counts)) for weight in weights]
    return weights


def step_weights(config: RLConfig, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The packed rows of an optimizer step with weights that add up to 1: the loss is a mean.

    With "constant" they are divided by a number that is the same for every step, the tokens that its episodes could
    have: `row_length` each. Then a token counts the same however long the others are (Dr. GRPO, arXiv:2503.20783).
    """
    if config.aggregation != "constant":
        return sft.normalised(batch)
    episodes = config.prompts // config.optimizer_steps * config.group_size
    return {**batch, "loss_weights": batch["loss_weights"] / np.float32(episodes * config.row_length)}


# --------------------------------------------------------------------------------------------------------- 5. update


def make_loss(model: ModelConfig, config: RLConfig) -> Callable[[Params, Batch], tuple[Array, dict[str, Array]]]:
    """The clipped policy-gradient loss of packed rows, weighted by `loss_weights`.

        loss = - sum_t w_t min( r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t )  +  kl * sum_t w_t KL_t

    r_t is the probability ratio (`ratios`) to the policy that sampled, at the sampling temperature. Both sides are of
    the whole vocabulary: where the sampler drew from less (top-k, a format constraint, ..), the old log-probabilities
    are the trainer's own (`Grpo.batch`), for the sampler's belong to another distribution. KL_t is the k3 estimator
    against the cold start, whose log-probabilities stand in the channel `reference_logprobs` where `kl` is not 0. Of
    tokens that are `imitated` it is -log p instead.
    """

    def loss(params: Params, batch: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
        logprobs, entropy = token_logprobs(
            model,
            params,
            batch["tokens"],
            batch["positions"],
            batch["segment_ids"],
            temperature=config.temperature,
            chunk=config.loss_chunk,
        )
        weights, advantage = batch["loss_weights"], batch["advantages"]
        imitated = batch["imitated"] > 0
        trained = (weights > 0) & ~imitated
        # Where nothing trains the ratio is 1, whatever stands there: 0 * inf would poison the gradient.
        change = jnp.where(trained, logprobs - batch["old_logprobs"], 0.0)
        ratio = ratios(config, change, trained, batch["segment_ids"])
        gain, clipped_gain = ratio * advantage, clipped(config, ratio) * advantage
        total = -jnp.sum(weights * jnp.where(imitated, logprobs, jnp.minimum(gain, clipped_gain)))
        numbers = {
            "entropy": jnp.sum(weights * entropy),
            "clipped": jnp.sum(weights * (gain > clipped_gain)),
            "logprob_change": jnp.sum(weights * jnp.abs(change)),  # imitated tokens count as 0
        }
        if config.kl:
            behind = jnp.where(trained, batch["reference_logprobs"] - logprobs, 0.0)
            divergence = jnp.sum(weights * (jnp.exp(behind) - behind - 1))
            numbers["kl"] = divergence
            total += config.kl * divergence
        return total, numbers

    return loss


def ratios(
    config: RLConfig, change: Float[Array, "B L"], trained: Bool[Array, "B L"], segment_ids: Int[Array, "B L"]
) -> Float[Array, "B L"]:
    """The probability ratio that each token is trained by: its own ("token") or that of its trace ("trace").

    The ratio of a trace is GSPO's of a sequence (arXiv:2507.18071): the probability of all its decoded tokens over
    what it was, to the power of 1 / their number. A sequence is a trace and not the episode, since a trace is one
    sample from one prompt. A worker that has changed much clips itself alone, and not the organizer.

    Args:
        change: log-probability now minus when sampled; 0 where not `trained`.
        trained: what the policy gradient is of.
        segment_ids: which trace a token of a row belongs to.
    """
    if config.ratio == "token":
        return jnp.exp(change)

    def of_row(change: Array, counted: Array, segments: Array) -> Array:  # each [L]; at most L traces
        total, count = (jax.ops.segment_sum(x, segments, num_segments=len(x) + 1) for x in (change, counted))
        return (total / jnp.maximum(count, 1))[segments]

    return jnp.exp(jax.vmap(of_row)(change, trained.astype(change.dtype), segment_ids))


def clipped(config: RLConfig, ratio: Float[Array, "B L"]) -> Float[Array, "B L"]:
    """The ratio, as far as an update may take it: wider above 1 than below ("clip-higher", DAPO, arXiv:2503.14476)."""
    return jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
