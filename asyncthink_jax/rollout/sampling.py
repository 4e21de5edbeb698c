"""Sampling one token a row, with random numbers that belong to the token and not to the batch.

The random number of a token is a function of (seed, episode, trace, position) alone. So an episode is the same whatever
else is in the batch, in whatever slot it runs and however many devices there are. Programs of other shapes round
otherwise: among tens of thousands of draws one may lie so close to another token that it goes the other way.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Bool, Float, Int, Key

from asyncthink_jax.parallel.sharding import whole_rows


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What changes the distribution beside its temperature. Static: an engine is compiled for it; off costs nothing.

    In the order in which they act, after the format constraint and around the temperature:

    Attributes:
      repetition_penalty: logits of tokens that the trace has already decoded itself are divided by it where positive,
        multiplied where negative (CTRL, arXiv:1909.05858). Prompt and joined text don't count: an agent has to copy
        from both. Tags count as any token. 1 = off. With temperature 0 too.
      top_k: the k likeliest tokens are left, and those as likely as the k-th. 0 = off.
      top_p: of these, the fewest likeliest ones whose probabilities add up to p (nucleus), and those as likely as the
        last of them. 1 = off.
      min_p: a token is left if it is at least min_p times as likely as the likeliest one. 0 = off.
    """

    repetition_penalty: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


EVERYTHING = Sampling()  # all options off


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
    logits: Float[Array, "R V"],
    uniforms: Float[Array, "R"],
    temperature: Float[Array, ""],
    options: Sampling = EVERYTHING,
    allowed: Bool[Array, "R V"] | None = None,
    decoded: tuple[Int[Array, "R L"], Bool[Array, "R L"]] | None = None,
) -> tuple[Int[Array, "R"], Float[Array, "R"]]:
    """Draws a token a row by inverting the distribution function at `uniforms`; temperature 0 is greedy.

    One uniform a row, and not the V a row that Gumbel noise takes.

    Args:
        allowed: tokens that may be drawn; None = all. Every row needs at least one.
        decoded: known tokens of the rows, and which of them count for the repetition penalty (needed if it is on).

    Returns:
        The tokens, and their log-probabilities in the distribution that they were drawn from, at `temperature` (at 1
        if greedy). The trainer's forward pass recomputes these if nothing but the temperature changes the distribution.
    """
    logits = logits.astype(jnp.float32)
    if allowed is not None:
        logits = jnp.where(allowed, logits, -jnp.inf)
    if options.repetition_penalty != 1:
        assert decoded is not None
        logits = _penalised(logits, *decoded, options.repetition_penalty)
    greedy = temperature <= 0
    likeliest = jnp.argmax(logits, axis=-1)
    logprobs = jax.nn.log_softmax(_filtered(logits / jnp.where(greedy, 1.0, temperature), options))
    tokens = jnp.where(greedy, likeliest, _draw(jnp.exp(logprobs), uniforms)).astype(jnp.int32)
    return tokens, jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]


def _draw(probabilities: Float[Array, "R V"], uniforms: Float[Array, "R"]) -> Int[Array, "R"]:
    """Inverts the distribution functions, first over blocks of the vocabulary, then within one.

    Adding up a row is then two short sums instead of a long one (of 151,936 tokens: 0.5 ms instead of 7 on CPU).
    """
    size = 1 << round(math.log2(probabilities.shape[1]) / 2)
    blocks = jnp.pad(whole_rows(probabilities), ((0, 0), (0, -probabilities.shape[1] % size)))
    blocks = blocks.reshape(len(probabilities), -1, size)
    masses = jnp.sum(blocks, axis=-1)
    block, rest = _first_beyond(masses, uniforms * jnp.sum(masses, axis=-1))
    within, _ = _first_beyond(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], rest)
    return block * size + within


def _first_beyond(masses: Float[Array, "R N"], level: Float[Array, "R"]) -> tuple[Int[Array, "R"], Float[Array, "R"]]:
    """The first entry of each row at which the running sum exceeds `level`, and what is left of `level` before it.

    It is an entry that has mass, whatever rounding does: to a level beyond the whole sum, or to the running sum, which
    need neither grow nor stand still at an entry without mass (a long one is added up in parts, side by side).
    """
    sums, has_mass = jnp.cumsum(masses, axis=-1), masses > 0
    level = jnp.minimum(level, jnp.nextafter(jnp.max(jnp.where(has_mass, sums, 0), axis=-1), 0))
    chosen = jnp.argmax(has_mass & (sums > level[:, None]), axis=-1)
    before = jnp.take_along_axis(jnp.pad(sums, ((0, 0), (1, 0))), chosen[:, None], axis=-1)[:, 0]
    return chosen, level - before


def _penalised(
    logits: Float[Array, "R V"], tokens: Int[Array, "R L"], counts: Bool[Array, "R L"], penalty: float
) -> Float[Array, "R V"]:
    rows = jnp.arange(logits.shape[0])[:, None]
    seen = jnp.zeros(logits.shape, bool).at[rows, jnp.where(counts, tokens, logits.shape[1])].set(True, mode="drop")
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def _filtered(logits: Float[Array, "R V"], options: Sampling) -> Float[Array, "R V"]:
    """-inf for what top-k, top-p and min-p leave out of tempered logits. The likeliest token always stays."""
    if options.top_k or options.top_p < 1:
        k = min(options.top_k, logits.shape[1])
        ranked = jax.lax.top_k(logits, k)[0] if k else -jnp.sort(-logits, axis=-1)
        stays = jnp.ones(ranked.shape, bool)
        if options.top_p < 1:
            probabilities = jax.nn.softmax(ranked, axis=-1)
            stays = jnp.cumsum(probabilities, axis=-1) - probabilities < options.top_p  # taken by likelier tokens
        last = jnp.min(jnp.where(stays, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= last, logits, -jnp.inf)
    if options.min_p > 0:
        least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(options.min_p)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits
