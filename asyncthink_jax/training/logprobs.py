"""Log-probabilities of tokens without the logits of a whole batch."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from asyncthink_jax.model import lora, transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.parallel.mesh import platform
from asyncthink_jax.parallel.sharding import replicated, row_shards, row_spec, shard
from asyncthink_jax.training.optimizer_step import Batch, HostBatch


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
    and what stands in its place means nothing: its weight must be 0. A device has the logits of `chunk` tokens at a
    time (at least one place of each of its rows), also in the backward pass, which recomputes them.
    """
    hidden = transformer.forward(config, params, tokens, positions, segment_ids)
    # The hidden state of a token predicts the next one: shift it under the token that it predicts.
    hidden = jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
    rows, length, _ = hidden.shape
    # Chunks are of the same places of all rows, since rows are what is split over the devices.
    span = min(length, max(1, chunk * row_shards() // rows))
    count = -(-length // span)
    chunks = []
    for x in (hidden, tokens):
        padded = jnp.pad(x, ((0, 0), (0, count * span - length), *[(0, 0)] * (x.ndim - 2)))
        chunks.append(padded.reshape(rows, count, span, *x.shape[2:]).swapaxes(0, 1))  # [chunks, B, span, ..]
    head = transformer.gathered_head(config, params)

    @jax.checkpoint
    def of_chunk(part: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, targets = part
        scores = transformer.logits(config, head, hidden) / temperature
        total = jax.nn.logsumexp(scores, axis=-1)
        # Not by indexing: over a vocabulary that is split, that would gather the scores.
        chosen = jnp.sum(jnp.where(jnp.arange(scores.shape[-1]) == targets[..., None], scores, 0), axis=-1)
        fixed = jax.lax.stop_gradient(scores)
        entropy = jax.lax.stop_gradient(total) - jnp.sum(jax.nn.softmax(fixed) * fixed, axis=-1)
        return chosen - total, entropy

    if count == 1:  # on CPU a loop's body runs its elementwise operations on one core
        logprobs, entropy = (x[None] for x in of_chunk((chunks[0][0], chunks[1][0])))
    else:
        logprobs, entropy = jax.lax.map(of_chunk, tuple(chunks))
    back = lambda x: x.swapaxes(0, 1).reshape(rows, -1)[:, :length]  # noqa: E731
    return back(logprobs), back(entropy)


class OldLogprobs:
    """Jitted: the log-probabilities [B, L] of a batch's tokens under given parameters, microbatch by microbatch.

    For the policy that sampled, where the sampler's own can't be used, and for the reference of a KL penalty.
    """

    def __init__(
        self, model: ModelConfig, temperature: float, chunk: int, microbatches: int, mesh: Mesh, frozen: Params
    ):
        self.mesh, self.frozen = mesh, frozen

        def of_part(params: Params, part: Batch) -> Array:
            tokens, positions, segments = part["tokens"], part["positions"], part["segment_ids"]
            return token_logprobs(model, params, tokens, positions, segments, temperature, chunk)[0]

        def logprobs(trained: Params, frozen: Params, batch: Batch) -> Array:
            params = lora.join(trained, frozen)
            if microbatches == 1:
                return of_part(params, batch)
            parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), batch)
            parts = jax.lax.with_sharding_constraint(parts, row_spec(mesh, axis=1))
            return jax.lax.map(lambda part: of_part(params, part), parts).reshape(batch["tokens"].shape)

        # Whole on every device: each process packs the whole batch.
        self._jitted = jax.jit(logprobs, out_shardings=replicated(mesh))

    def __call__(self, params: Params, batch: HostBatch) -> Array:
        with jax.set_mesh(self.mesh):
            return self._jitted(params, self.frozen, shard(batch, row_spec(self.mesh)))

    def lower(self, params: Params, batch: Batch) -> jax.stages.Lowered:
        """As `OptimizerStep.lower`."""
        with jax.set_mesh(self.mesh):
            return self._jitted.trace(params, self.frozen, batch).lower(lowering_platforms=(platform(),))
