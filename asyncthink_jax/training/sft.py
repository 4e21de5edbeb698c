"""Stage 1, the cold start: a causal-LM loss on what organizers and workers write (paper, section 3)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from asyncthink_jax.config import SFTConfig
from asyncthink_jax.data.tokenizer import Tokenizer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.training.logprobs import token_logprobs
from asyncthink_jax.training.optimizer_step import Batch


def make_loss(model: ModelConfig, config: SFTConfig) -> Callable[[Params, Batch], tuple[Array, dict[str, Array]]]:
    """The loss of packed rows: -log p of every token, weighted by `loss_weights` (prompts and joined text have 0).

    The weights of a whole step's batch add up to 1 (`normalised`), so that its microbatches' losses add up to the mean.
    """

    def loss(params: Params, batch: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
        logprobs, entropy = token_logprobs(
            model, params, batch["tokens"], batch["positions"], batch["segment_ids"], chunk=config.loss_chunk
        )
        weights = batch["loss_weights"]
        return -jnp.sum(weights * logprobs), {"entropy": jnp.sum(weights * entropy)}

    return loss


def normalised(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with weights that add up to 1."""
    weights = batch["loss_weights"]
    return {**batch, "loss_weights": weights / max(float(weights.sum()), 1e-6)}


def with_number_features(params: Params, tokenizer: Tokenizer, key: jax.Array) -> Params:
    """A special initialisation: the embeddings of number tokens start as Fourier features of the number and its log.

    Sines and cosines of n (periods from 2 to 200, half of the width) and of log n (periods from 0.1 to 9.2, a quarter)
    stand beside the usual noise, at the same scale, so that nearby numbers are alike, and sums and products are phase
    shifts. A tiny model trained for minutes would spend half of them on finding this out.
    """
    embed = np.array(params["embed"])
    width, scale = embed.shape[1], embed.std()
    frequencies = 1 / np.geomspace(2.0, 200.0, width // 4), 1 / np.geomspace(0.1, 9.2, width // 8)
    phases = np.asarray(jax.random.uniform(key, (width // 4,)))
    for token in range(tokenizer.vocab_size):
        text = tokenizer.token_bytes(token).decode(errors="replace").strip()
        if text.isascii() and text.isdigit() and int(text):
            turns = np.concatenate([int(text) * frequencies[0] + phases, np.log(int(text)) * frequencies[1]])
            features = np.concatenate([np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)]) * np.sqrt(2)
            embed[token, : features.size] = scale * features
    return {**params, "embed": jnp.asarray(embed)}
