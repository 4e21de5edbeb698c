"""Sampling one token a row, with random numbers that belong to the token and not to the batch.

The random number of a token is a function of (seed, episode, trace, position) alone. So an episode is the same whatever
else is in the batch, in whatever slot it runs and however many devices there are.
"""

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, Key


def token_uniforms(
    key: Key[Array, ""], episode: Int[Array, "R"], trace: Int[Array, "R"], position: Int[Array, "R"]
) -> Float[Array, "R"]:
    """One uniform number in [0, 1) for each row's next token; traces below 2^12, positions below 2^20.

    One Threefry hash a row, with the place as its counter: a chain of `fold_in`s would be four, each a loop on CPU.
    """
    words = jax.random.key_data(key)
    counter = jnp.stack([episode.astype(jnp.uint32), (trace.astype(jnp.uint32) << 20) | position.astype(jnp.uint32)])
    bits, _ = threefry_2x32((words[0], words[-1]), counter)
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


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
