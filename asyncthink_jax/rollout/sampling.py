"""Sampling one token a row, with random numbers that belong to the token and not to the batch.

The random number of a token is a function of (seed, episode, trace, position) alone. So an episode is the same whatever
else is in the batch, in whatever slot it runs and however many devices there are.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def token_uniforms(
    key: Key[Array, ""], episode: Int[Array, "R"], trace: Int[Array, "R"], position: Int[Array, "R"]
) -> Float[Array, "R"]:
    """One uniform number in [0, 1) for each row's next token."""

    def one(episode: Array, trace: Array, position: Array) -> Array:
        row_key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, episode), trace), position)
        return jax.random.uniform(row_key)

    return jax.vmap(one)(episode, trace, position)


def sample(
    logits: Float[Array, "R V"], uniforms: Float[Array, "R"], temperature: Float[Array, ""]
) -> tuple[Int[Array, "R"], Float[Array, "R"]]:
    """Draws a token a row by inverting the distribution function at `uniforms`; temperature 0 is greedy.

    Returns the tokens and their log-probabilities at `temperature` (at 1 if greedy), which is what the trainer's
    forward pass recomputes. One uniform a row, and not the V a row that Gumbel noise takes.
    """
    greedy = temperature <= 0
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32) / jnp.where(greedy, 1.0, temperature))
    cumulative = jnp.cumsum(jnp.exp(logprobs), axis=-1)
    # Scaling by the total keeps a rounded-down sum from ever pointing past the last token of non-zero probability.
    drawn = jnp.sum(cumulative <= uniforms[:, None] * cumulative[:, -1:], axis=-1)
    tokens = jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)
    return tokens, jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
