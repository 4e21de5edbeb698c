"""The language model: a Qwen3 / Llama decoder as Linen modules, with pure functions around them.

Parameters are a plain nested dict of fp32 arrays in which the layers are stacked (leading axis `layers`). The same
`Block` serves training (`forward`: packed rows with segment ids, layers scanned) and rollouts (`decode`: a key/value
cache that is written in place, layers unrolled).

Shapes: B training rows, R rollout rows, L tokens, W new tokens a row, C cache positions, D width, N query heads,
K key/value heads, H head dim, F feed-forward width, V vocabulary.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from asyncthink_jax.model import attention
from asyncthink_jax.model.cache import (
    Cache,
    empty,
    kept_lengths,
    merge_rows,
    read,
    row_count,
    split_rows,
    stored,
    write,
)
from asyncthink_jax.model.lora import Params, adapted, cast
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.parameters import BY_PATH
from asyncthink_jax.parallel.mesh import platform
from asyncthink_jax.parallel.sharding import constrain_rows, constrain_table

Rope = tuple[Float[Array, "B L 1 H/2"], Float[Array, "B L 1 H/2"]]  # cosines and sines


@partial(jax.jit, static_argnums=0)
def init(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh fp32 parameters, those of adapters included."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return adapted(Transformer(config), config.lora).init(key, tokens, tokens, tokens)["params"]


def abstract_params(config: ModelConfig) -> Params:
    """The tree of `init` as `jax.ShapeDtypeStruct`s: nothing is allocated."""
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def forward(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B L"],
    positions: Int[Array, "B L"],
    segment_ids: Int[Array, "B L"],
) -> Float[Array, "B L D"]:
    """Hidden states (after the final norm) of packed rows.

    A token attends to itself and to earlier tokens of its own segment. Segment 0 is padding: its output means nothing.
    """
    params = cast(params, config.dtype)
    return _apply(adapted(Transformer(config), config.lora), params, tokens, positions, segment_ids)


def logits(config: ModelConfig, params: Params, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
    """Next-token logits in fp32. For long rows or large vocabularies call it on chunks of `hidden`."""
    if config.tied_embeddings:
        kernel, equation = params["embed"], "...d,vd->...v"
    else:
        kernel, equation = params["unembed"], "...d,dv->...v"
    hidden, kernel = hidden.astype(config.dtype), kernel.astype(config.dtype)
    return jnp.einsum(equation, hidden, kernel, preferred_element_type=jnp.float32)


def gathered_head(config: ModelConfig, params: Params) -> Params:
    """The parameter that `logits` reads, in the compute type and gathered over fsdp once for many calls."""
    if config.tied_embeddings:
        return {"embed": constrain_table(params["embed"].astype(config.dtype))}
    return {"unembed": constrain_table(params["unembed"].astype(config.dtype), vocab_axis=1)}


def init_cache(config: ModelConfig, rows: int, length: int, *, kept_once: bool = False) -> Cache:
    """An empty cache. It need not be cleared when a row is reused: no query sees past its own position.

    kept_once: one array per layer even where several would be faster to read (`cache.kept_lengths`).
    """
    lengths = (length,) if kept_once else kept_lengths(length)
    return empty(config.layers, rows, config.kv_heads, lengths, config.head_dim, config.dtype)


def decode(
    config: ModelConfig,
    params: Params,
    caches: tuple[Cache, ...],
    tokens: Int[Array, "R W"],
    positions: Int[Array, "R W"],
    *,
    groups: int = 1,
    read_lengths: tuple[int | None, ...] | None = None,
) -> tuple[Float[Array, "R W D"], tuple[Cache, ...]]:
    """Feeds W tokens per row: writes their keys and values at `positions`, returns their hidden states and the caches.

    Rows may live in several caches of different lengths: of each of `groups` equal parts of the rows, the first rows
    are in `caches[0]`, the next in `caches[1]`, and so on. A position < 0 marks padding: nothing is written for it and
    its output means nothing. At most the first `read_lengths` positions of each cache are read (None: all of them).
    Every other position p must be below that length, and positions 0..p-1 must have been fed before or in this call.
    """
    read_lengths = read_lengths or (None,) * len(caches)
    # On a TPU all caches are read before any is written. If a cache were written first, the compiler would move all of
    # it to fast memory and back (1.55 times the bytes of a step of Qwen3-4B). A CPU's would copy the cache instead.
    on_tpu = platform() == "tpu"
    x = embed(config, params["embed"], tokens)
    rope = rope_table(config, positions)
    sizes = [row_count(cache) for cache in caches]
    positions_of = split_rows(positions, sizes, groups)
    layers = [[*zip(cache["k"], cache["v"], strict=True)] for cache in caches]  # [part][layer]: k, v
    unwritten: dict[tuple[int, int], Any] = {}  # (part, layer): k, v of the new tokens
    # Unrolled, although training scans: a scan would first copy each layer's cache out of the stack, which takes longer
    # than attending to it (see attention.py).
    for n, weights in enumerate(unstacked(config, params)["layers"]):
        block = partial(_apply, Block(config), weights)
        mixed = []
        for part, rows in enumerate(
            zip(*(split_rows(y, sizes, groups) for y in block(x, rope, method="qkv")), strict=True)
        ):
            q, new = rows[0], rows[1:]
            if on_tpu:
                unwritten[part, n] = new
            else:
                layers[part][n] = write(layers[part][n], positions_of[part], new)
            attend = partial(attention.cached, q, positions=positions_of[part], new=new if on_tpu else None)
            mixed.append(read(layers[part][n], positions_of[part], read_lengths[part], attend))
        x = block(x, merge_rows(mixed, groups), method="finish")
    if on_tpu:  # without this barrier the compiler schedules the writes first and copies the whole cache
        x, unwritten = jax.lax.optimization_barrier((x, unwritten))
    for (part, n), new in unwritten.items():
        layers[part][n] = write(layers[part][n], positions_of[part], new)
    caches = tuple({"k": tuple(k for k, _ in part), "v": tuple(v for _, v in part)} for part in layers)
    return _apply(RMSNorm(config, "final_norm"), params["final_norm"], x), caches


def prefill(config: ModelConfig, params: Params, tokens: Int[Array, "R L"]) -> Cache:
    """The cache of whole prompts, read in one pass from position 0: L positions of each layer."""
    x, segments = embed(config, params["embed"], tokens), jnp.ones_like(tokens)
    rope = rope_table(config, jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape))
    keys, values = [], []
    for weights in unstacked(config, params)["layers"]:
        block = partial(_apply, Block(config), weights)
        q, k, v = block(x, rope, method="qkv")
        keys.append((stored(k),))
        values.append((stored(v),))
        x = block(x, attention.packed(q, k, v, segments), method="finish")
    return {"k": tuple(keys), "v": tuple(values)}


def unstacked(config: ModelConfig, params: Params) -> Params:
    """Parameters with a tuple of layers in place of the stack; parameters without a stack are returned as they are.

    With a stack, `decode` in a loop would copy each layer's weights out of it at every step.
    """
    if isinstance(params["layers"], tuple):
        return params
    layers = tuple(jax.tree.map(lambda p, layer=layer: p[layer], params["layers"]) for layer in range(config.layers))
    return {**params, "layers": layers}


def _apply(module: nn.Module, params: Params, *inputs: Any, method: str | None = None) -> Any:
    return module.apply({"params": params}, *inputs, method=method)


class Transformer(nn.Module):
    """Embedding, scanned blocks and final norm over packed rows."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens, positions, segment_ids):
        c = self.config
        table = _parameter(self, c, "embed")
        if not c.tied_embeddings:  # read by `logits`
            _parameter(self, c, "unembed")
        x = embed(c, table, tokens)
        layers = nn.scan(
            _remat(Block, c.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=c.layers,
            # A scan copies each layer's activations into stacks: a fifth of the time of a shallow model. A deep one
            # needs the short compile, and recomputation needs the loop (unrolled, it would be optimised away).
            unroll=c.layers if c.layers <= 4 and c.remat == "none" else 1,
        )
        x, _ = layers(c, name="layers")(x, rope_table(c, positions), segment_ids)
        return RMSNorm(c, "final_norm", name="final_norm")(x)


class Block(nn.Module):
    """One layer: attention and SwiGLU, each behind an RMSNorm and added to the residual stream."""

    config: ModelConfig

    def setup(self):
        c = self.config
        self.attention_norm = RMSNorm(c, "layers/attention_norm")
        self.q = Projection(c, "layers/q")
        self.k = Projection(c, "layers/k")
        self.v = Projection(c, "layers/v")
        if c.qk_norm:
            self.q_norm = RMSNorm(c, "layers/q_norm")
            self.k_norm = RMSNorm(c, "layers/k_norm")
        self.o = Projection(c, "layers/o")
        self.mlp_norm = RMSNorm(c, "layers/mlp_norm")
        self.gate = Projection(c, "layers/gate")
        self.up = Projection(c, "layers/up")
        self.down = Projection(c, "layers/down")

    def __call__(self, x, rope, segment_ids):
        """Packed rows; the second value is the scan's (it has no per-layer output)."""
        q, k, v = self.qkv(x, rope)
        return self.finish(x, attention.packed(q, k, v, segment_ids)), None

    def qkv(self, x, rope):
        h = self.attention_norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)  # [B, L, N, H], [B, L, K, H], [B, L, K, H]
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, rope), rotate(k, rope), v

    def finish(self, x, mixed):
        x = x + self.o(mixed)  # [B, L, D]
        h = self.mlp_norm(x)
        return constrain_rows(x + self.down(nn.silu(self.gate(h)) * self.up(h)))


class Projection(nn.Module):
    """A linear map without bias, whose kernel is the row `<prefix>/kernel` of the table of parameters."""

    config: ModelConfig
    prefix: str

    @nn.compact
    def __call__(self, x):
        row = BY_PATH[f"{self.prefix}/kernel"]
        kernel = _parameter(self, self.config, row.path)
        # qwix adds an adapter where it finds the product of `x` and the parameter itself, so not in a custom gradient.
        own_gradient = platform() == "cpu" and not self.config.lora.rank
        product = _tensordot if own_gradient else jnp.tensordot
        return product(x, kernel.astype(x.dtype), len(row.inputs))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _tensordot(x: Array, kernel: Array, axes: int) -> Array:
    """`jnp.tensordot` with the kernel's gradient as x^T dy instead of (dy^T x)^T: the same sums.

    For (dy^T x)^T a CPU computes dy, as wide as the hidden layer, a second time into a transposed copy. Without this
    gradient a cold-start step of the demo takes a tenth more processor time, an RL step a twentieth
    (experiments/LOG.md).
    """
    return jnp.tensordot(x, kernel, axes)


def _tensordot_forward(x: Array, kernel: Array, axes: int) -> tuple[Array, tuple[Array, Array]]:
    return jnp.tensordot(x, kernel, axes), (x, kernel)


def _tensordot_backward(axes: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    tokens = tuple(range(x.ndim - axes))
    outputs = tuple(range(len(tokens), dy.ndim)), tuple(range(axes, kernel.ndim))
    dx = jax.lax.dot_general(dy, kernel, (outputs, ((), ())))
    return dx, jax.lax.dot_general(x, dy, ((tokens, tokens), ((), ())))


_tensordot.defvjp(_tensordot_forward, _tensordot_backward)


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, computed in fp32; the scale is the row `<prefix>/scale` of the table."""

    config: ModelConfig
    prefix: str

    @nn.compact
    def __call__(self, x):
        scale = _parameter(self, self.config, f"{self.prefix}/scale")
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.config.norm_eps)
        return (y * scale).astype(x.dtype)


def _parameter(module: nn.Module, config: ModelConfig, path: str) -> Array:
    """The parameter of a row of the table, which `module` holds under the last part of its path."""
    row = BY_PATH[path]
    return module.param(path.rpartition("/")[2], row.initializer, row.shape(config))


def embed(config: ModelConfig, table: Float[Array, "V D"], tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    """The tokens' rows of the table, in the compute dtype."""
    return constrain_rows(constrain_table(table.astype(config.dtype))[tokens])


def rope_frequencies(config: ModelConfig) -> Float[Array, "H/2"]:
    """Radians a token that each pair of a head turns by."""
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    scaling = config.rope_scaling
    if scaling.factor == 1:
        return frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    turns = scaling.original_context * frequencies / (2 * jnp.pi)  # over the original context
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rope_table(config: ModelConfig, positions: Int[Array, "B L"]) -> Rope:
    """Cosines and sines of the rotary position embedding, once for all layers and heads."""
    angles = positions[:, :, None, None].astype(jnp.float32) * rope_frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "B L heads H"], rope: Rope) -> Float[Array, "B L heads H"]:
    """Rotates the pairs (x[i], x[i + H/2]): the half-split layout of the Hugging Face weights."""
    cos, sin = rope
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _remat(block: type[nn.Module], policy: str) -> type[nn.Module]:
    if policy == "none":
        return block
    policies = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
    return nn.remat(block, policy=policies[policy], prevent_cse=False)  # a scan's body cannot be merged with its copy
