"""What the steps of a run have to compute and to move, by hand-derived formulas: what a roofline is made of.

Symbols: D width, N query heads, K key/value heads, H head dim, F feed-forward, V vocabulary, all of `ModelConfig`;
b bytes of the compute type; s chips over which rows are split (data x fsdp), t over which heads are (tensor).

    W = layers (D H (2N + 2K) + 3 D F)     weights of the layers' matrix products
    E = V D                                weights of the output's

A product of T tokens with W weights is 2 T W FLOPs. Attention of a token to n others is 4 n N H FLOPs a layer, over
packed rows of L tokens n = L/2. A backward pass costs two forward passes; what is recomputed costs one more: the logits
always, with remat "full" the layers.

All counts are of one chip.
"""

import dataclasses
import math

import jax.numpy as jnp

from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.parameters import rows


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run of a step, on one chip."""

    flops: float
    bytes: float  # from and to its memory


@dataclasses.dataclass(frozen=True)
class Costs:
    """The formulas for a model on a mesh.

    Args:
        model: without adapters (what they add is left out).
        data, fsdp, tensor: the mesh.
        trained: share of the layers' and the output's weights that have gradients and optimizer state.
    """

    model: ModelConfig
    data: int
    fsdp: int
    tensor: int
    trained: float = 1.0

    @property
    def layers(self) -> int:
        """W."""
        return self.model.layers * sum(math.prod(row.shape(self.model)) for row in rows(self.model) if row.is_matrix)

    @property
    def output(self) -> int:
        """E."""
        return self.model.vocab_size * self.model.width

    @property
    def _b(self) -> int:
        return jnp.dtype(self.model.dtype).itemsize

    @property
    def _shards(self) -> int:
        return self.data * self.fsdp

    def _attention(self, tokens: float, others: float) -> float:
        """FLOPs of a forward pass, on all chips together."""
        m = self.model
        return 4 * tokens * others * m.heads * m.head_dim * m.layers

    def _activations(self, tokens: float) -> float:
        """Bytes of a forward pass through the layers on one chip: each product's input and output, each norm's too.

        A token reads and writes D some 8 times (two norms, two sums, in and out of the products), its queries, keys and
        values twice, its feed-forward 6 times (two products out, their product in and out, one in).
        """
        m = self.model
        split = 2 * m.head_dim * (2 * m.heads + 2 * m.kv_heads) + 6 * m.mlp_width
        return self._b * m.layers * tokens / self._shards * (8 * m.width + split / self.tensor)

    def train_step(self, rows: int, length: int, microbatches: int, momentum_bytes: int = 4) -> Cost:
        """An optimizer step on B rows of L tokens."""
        tokens, chips, model = rows * length, self._shards * self.tensor, self.model
        forwards = 1 + (model.remat == "full")
        attention = self._attention(tokens, length / 2)
        flops = tokens * (2 * self.layers * (forwards + 1 + self.trained) + 2 * self.output * (2 + 1 + self.trained))
        flops += attention * (forwards + 2 + (model.remat == "dots"))
        weights = self.layers + self.output
        # A microbatch: gathered weights are written once and read for each pass; gradients are added up in fp32.
        gathered = self._b * weights / self.tensor * (forwards + 1 + (forwards + 1) * (self.fsdp > 1))
        gradients = self.trained * weights * (2 * 4 / (self.fsdp * self.tensor) + 2 * self._b / self.tensor)
        # Scores in fp32: written, read by the sum and by the entropy, twice (recomputed); their gradient, in and out.
        scores = 8 * 4 * tokens / self._shards * model.vocab_size / self.tensor
        # Parameters, gradients and both moments in and out.
        update = self.trained * weights * (8 + 4 + 8 + 2 * momentum_bytes) / (self.fsdp * self.tensor)
        moved = microbatches * (gathered + gradients) + self._activations(tokens) * (forwards + 2) + scores + update
        return Cost(flops / chips, moved)

    def logprobs(self, rows: int, length: int, microbatches: int) -> Cost:
        """A forward pass over B rows of L tokens, to the log-probabilities."""
        tokens, chips = rows * length, self._shards * self.tensor
        weights = self.layers + self.output
        flops = 2 * tokens * weights + self._attention(tokens, length / 2)
        scores = 3 * 4 * tokens / self._shards * self.model.vocab_size / self.tensor
        moved = microbatches * self._b * weights / self.tensor * (1 + (self.fsdp > 1))
        return Cost(flops / chips, moved + self._activations(tokens) + scores)

    def decode_step(self, rows: int, cached: float) -> Cost:
        """One token for each of R rows, which have `cached` positions in the cache on average."""
        here = rows / self._shards
        weights = (self.layers + self.output) / self.tensor
        keys_and_values = 2 * here * cached * self.model.layers * self.model.kv_heads * self.model.head_dim
        flops = 2 * here * weights + self._attention(here, cached) / self.tensor
        return Cost(flops, self._b * (weights + keys_and_values / self.tensor))

    def prefill(self, length: int) -> Cost:
        """One prompt read at once on each group of `tensor` chips."""
        flops = (2 * length * self.layers + self._attention(length, length / 2)) / self.tensor
        cache = 2 * length * self.model.layers * self.model.kv_heads * self.model.head_dim / self.tensor
        return Cost(flops, self._b * (self.layers / self.tensor + cache) + self._activations(length * self._shards))

    def reshard(self, params: int) -> Cost:
        """Bytes moved when `params` fp32 parameters are cast and resharded for a rollout."""
        return Cost(0.0, 4 * params / (self.fsdp * self.tensor) + self._b * params / self.tensor)
