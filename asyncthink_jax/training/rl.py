"""Stage 2, reinforcement learning: GRPO over episodes of many traces (paper, section 4).

One iteration:

    1. rollout     every problem of the batch is decoded `group_size` times by the engine
    2. reward      accuracy + lambda * concurrency for a well-formed episode, else a penalty           `reward`
    3. advantage   reward minus the mean of its group; every decoded token of every trace shares it    `advantages`
    4. packing     organizers and workers as rows with an old log-probability a token                  `training_rows`
                   demonstrated work beside them (option): searches and answers, nothing that organizes `imitated_rows`
    5. update      the clipped policy gradient, in `optimizer_steps` minibatches                       `make_loss`
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from asyncthink_jax.config import RLConfig
from asyncthink_jax.data import packing
from asyncthink_jax.model.transformer import ModelConfig, Params
from asyncthink_jax.protocol.episode import Episode
from asyncthink_jax.training.logprobs import token_logprobs
from asyncthink_jax.training.state import Batch


def reward(config: RLConfig, episode: Episode) -> float:
    """R_FE for a malformed episode, else R_A + lambda * min(eta / c, tau) / tau (paper, section 4).

    Three options that the paper has not, all off by default: R_eta in proportion to R_A, a bonus where everything asked
    for was found, and a penalty for the share of the answered expressions that is wrong. `train` takes no R_FE above
    what that penalty leaves of an answer that is all wrong: a format error would be the better way out.
    """
    if episode.format_error is not None:
        return config.format_penalty
    score = episode.score or {}
    concurrency = min(episode.concurrency, config.tau) / config.tau
    if config.concurrency_times_accuracy:
        concurrency *= score["accuracy"]
    total = score["accuracy"] + config.concurrency_weight * concurrency
    total += config.all_correct_bonus * (score["accuracy"] == 1.0)
    return total - config.wrong_penalty * score.get("wrong", 0) / max(1, score.get("answered", 0))


def advantages(config: RLConfig, rewards: Float[np.ndarray, "P G"]) -> Float[np.ndarray, "P G"]:
    """Group-relative advantages of P problems with G episodes each; a group of equal rewards has none."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    centred[np.ptp(rewards, axis=1) == 0] = 0.0  # no rounding residue: such a group moves nothing
    if config.std_normalise:
        centred = centred / (rewards.std(axis=1, keepdims=True) + 1e-6)
    return centred


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
        for trace in episode.traces:
            worker = trace.role == "worker"
            if worker and (config.worker_weight == 0 or rng.random() >= config.worker_keep):
                continue
            if not trace.decoded_tokens:
                continue
            weight = trace.sampled * np.float32(config.worker_weight if worker else 1.0)
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


def imitated_rows(config: RLConfig, traces: Sequence[packing.Trace]) -> list[packing.Trace]:
    """Rows for demonstrated traces (tokens and loss weights): no advantage, and marked `imitated`."""
    return [
        {
            "tokens": trace["tokens"],
            "loss_weights": trace["loss_weights"] * np.float32(config.imitation_weight),
            "advantages": np.zeros(len(trace["tokens"]), np.float32),
            "old_logprobs": np.zeros(len(trace["tokens"]), np.float32),
            "imitated": np.ones(len(trace["tokens"]), np.float32),
        }
        for trace in traces
    ]


def _after_prompt(prompt: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(len(prompt), np.float32), values.astype(np.float32)])


def make_loss(model: ModelConfig, config: RLConfig) -> Callable[[Params, Batch], tuple[Array, dict[str, Array]]]:
    """The clipped policy-gradient loss of packed rows, weighted by `loss_weights` (which add up to 1 over a step).

        loss = - sum_t w_t min( r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t )  +  kl * sum_t w_t KL_t

    r_t is the probability ratio to the policy that sampled, at the sampling temperature. Both sides are of the whole
    vocabulary: where the sampler drew from less (top-k, a format constraint, ..), the old log-probabilities are the
    trainer's own (`training/update.py:Update`), for the sampler's belong to another distribution. KL_t is the k3
    estimator against the cold start, whose log-probabilities stand in the channel `reference_logprobs` where `kl` is
    not 0. Of tokens that are `imitated` it is -log p instead.
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
        ratio = jnp.exp(change)
        clipped = jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
        total = -jnp.sum(weights * jnp.where(imitated, logprobs, jnp.minimum(ratio * advantage, clipped * advantage)))
        numbers = {
            "entropy": jnp.sum(weights * entropy),
            "clipped": jnp.sum(weights * (ratio * advantage > clipped * advantage)),
            "logprob_change": jnp.sum(weights * jnp.abs(change)),  # imitated tokens count as 0
        }
        if config.kl:
            behind = jnp.where(trained, batch["reference_logprobs"] - logprobs, 0.0)
            divergence = jnp.sum(weights * (jnp.exp(behind) - behind - 1))
            numbers["kl"] = divergence
            total += config.kl * divergence
        return total, numbers

    return loss
