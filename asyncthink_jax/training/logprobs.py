"""Log-probabilities of tokens without the logits of a whole batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from asyncthink_jax.model import transformer
from asyncthink_jax.model.transformer import ModelConfig, Params


def token_logprobs(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B L"],
    positions: Int[Array, "B L"],
    segment_ids: Int[Array, "B L"],
    temperature: float = 1.0,
    chunk: int = 1024,
) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Of each token of packed rows, given what comes before it in its segment: log-probability, and the entropy there.

    The numbers are those of the distribution at `temperature`. The first token of a segment is predicted from nothing,
    and what stands in its place means nothing: its weight must be 0. Logits exist for `chunk` tokens at a time, also in
    the backward pass, which recomputes them.
    """
    hidden = transformer.forward(config, params, tokens, positions, segment_ids)
    # The hidden state of a token predicts the next one: shift it under the token that it predicts.
    hidden = jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
    rows, length, width = hidden.shape
    chunk = min(chunk, rows * length)
    count = -(-rows * length // chunk)
    padding = count * chunk - rows * length
    hidden = jnp.pad(hidden.reshape(-1, width), ((0, padding), (0, 0))).reshape(count, chunk, width)
    targets = jnp.pad(tokens.reshape(-1), (0, padding)).reshape(count, chunk)

    @jax.checkpoint
    def of_chunk(part: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, targets = part
        logprobs = jax.nn.log_softmax(transformer.logits(config, params, hidden) / temperature)
        entropy = -jnp.sum(jax.lax.stop_gradient(jnp.exp(logprobs) * logprobs), axis=-1)
        return jnp.take_along_axis(logprobs, targets[:, None], axis=-1)[:, 0], entropy

    if count == 1:  # on CPU a loop's body runs its elementwise operations on one core
        logprobs, entropy = of_chunk((hidden[0], targets[0]))
    else:
        logprobs, entropy = jax.lax.map(of_chunk, (hidden, targets))
    back = lambda x: x.reshape(-1)[: rows * length].reshape(rows, length)  # noqa: E731
    return back(logprobs), back(entropy)
