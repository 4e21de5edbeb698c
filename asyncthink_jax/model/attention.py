"""Attention: this file alone chooses an implementation.

There are two cases. `packed` serves training: rows in which several traces stand one after the other. TPUs and GPUs
have kernels for it. `cached` serves decoding: a few new tokens per row against the row's key/value cache. Without a
kernel both call `attend`. Its layout was measured on 2 CPU cores (ms of processor time per core, jax 0.10.2; 3 layers,
width 128, 4/2 heads of 32):

    one decode step, 256 rows, cache of 192 positions, W = 1 (2.4 without attention; reading the cache is 3)
        layers scanned, cache as xs/ys, dot_product_attention                 29.5
        layers scanned, cache [layers, R, C, K, H] carried, same              15.7
        layers unrolled, same cache, same                                     16.7
        layers unrolled, a cache [R, C, K, H] for each, same                  17.5
        same, multiply and reduce instead of einsum                            8.4
        layers unrolled, a cache [R, K, C, H] for each, einsum (this)          8.2
        this, reading 128 or 64 of the 192 positions (the slice is a copy)     9.1, 5.8
    forward and backward, 16 packed rows of 256 tokens (176 ms without attention)
        layers scanned, dot_product_attention                                  347
        layers scanned, `attend`                                               330
        layers unrolled, `attend` (this)                                       268
        same, in blocks of 64 queries that skip the keys after them            255
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from asyncthink_jax.parallel.mesh import platform
from asyncthink_jax.parallel.sharding import on_each_device

# Keys, values, and which of them each query sees ([R, 1, C] where all queries of a row see the same).
Part = tuple[Float[Array, "R K C H"], Float[Array, "R K C H"], Bool[Array, "R W C"]]


def packed(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L K H"],
    v: Float[Array, "B L K H"],
    segment_ids: Int[Array, "B L"],
) -> Float[Array, "B L N H"]:
    """Causal attention within each segment of each row (a token's order is its index in the row).

    The implementation is the fastest of the platform.
    """
    devices = platform()
    if devices == "tpu":
        heads = ("tensor",)  # of [B, heads, L, H], behind the rows
        local = on_each_device(flash, (heads, heads, heads, ()), heads)
        return local(*(x.swapaxes(1, 2) for x in (q, k, v)), segment_ids).swapaxes(1, 2)
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    seen = same & jnp.tril(jnp.ones(same.shape[1:], bool))
    if devices == "gpu" and q.dtype != jnp.float32 and _has_fused_attention():  # 16-bit types only
        return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None], implementation="cudnn")
    return attend(q, (k.swapaxes(1, 2), v.swapaxes(1, 2), seen))


def _has_fused_attention() -> bool:
    """Whether cuDNN's fused attention runs here: on NVIDIA GPUs from Ampere on, so not on a T4."""
    capability = str(getattr(jax.local_devices(backend="gpu")[0], "compute_capability", ""))  # AMD's are like "gfx942"
    number = re.fullmatch(r"(\d+)\.\d+", capability)
    return number is not None and int(number[1]) >= 8


def flash(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B K L H"],
    v: Float[Array, "B K L H"],
    segment_ids: Int[Array, "B L"],
    interpret: bool = False,
) -> Float[Array, "B N L H"]:
    """`packed` on a TPU: Pallas's splash attention, in which the scores [L, L] never leave the chip.

    `interpret`: run the kernel in plain JAX, on any device and slowly.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # takes a second; only TPUs need it

    _, heads, length, head_dim = q.shape
    padding = -length % splash.splash_attention_kernel.NUM_LANES  # blocks are multiples of a register's width

    def pad(x: Array, axis: int) -> Array:
        return jnp.pad(x, [(0, padding if n == axis else 0) for n in range(x.ndim)])

    q, k, v = (pad(x, 2) for x in (q * head_dim**-0.5, k, v))
    segments = pad(segment_ids, 1)
    length += padding
    block = max(size for size in (512, 384, 256, 128) if length % size == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    blocks: dict[str, Any] = dict.fromkeys((*names, "block_q_dq", "block_kv_dq"), block)
    attention = splash.splash_attention_kernel.make_splash_mha(
        splash.splash_attention_mask.MultiHeadMask([splash.CausalMask((length, length))] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash.BlockSizes(**blocks),
        interpret=interpret,
    )
    mixed = jax.vmap(lambda q, k, v, s: attention(q, k, v, splash.SegmentIds(s, s)))(q, k, v, segments)
    return mixed[:, :, : length - padding]


def cached(
    q: Float[Array, "R W N H"],
    keys: Float[Array, "R K C H"],
    values: Float[Array, "R K C H"],
    positions: Int[Array, "R W"],
    new: tuple[Float[Array, "R W K H"], Float[Array, "R W K H"]] | None = None,
) -> Float[Array, "R W N H"]:
    """Attention of new tokens to the cache positions up to and including their own; positions < 0 are padding.

    `new`: keys and values of the new tokens themselves, if they are not in the cache yet.
    """
    own, length = positions[:, :, None], keys.shape[2]
    if new is None:
        return attend(q, (keys, values, jnp.arange(length) <= own))
    first = jnp.min(jnp.where(own < 0, length, own), axis=1, keepdims=True)
    seen = (positions[:, None] >= 0) & (positions[:, None] <= own)
    k, v = (x.swapaxes(1, 2) for x in new)
    return attend(q, (keys, values, jnp.arange(length) < first), (k, v, seen))


def attend(q: Float[Array, "R W N H"], *parts: Part) -> Float[Array, "R W N H"]:
    """Softmax attention in fp32 over the visible keys of all `parts`. A query that sees none gets an arbitrary value.

    The queries that read the same keys (G = N/K heads, W tokens each) form one matrix. The batch dimensions R and K
    lead on both sides, so no key or value is transposed.
    """
    rows, width, heads, head_dim = q.shape
    kv_heads = parts[0][0].shape[1]
    q = (q * head_dim**-0.5).reshape(rows, width, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)  # [R, K, G, W, H]
    q = q.reshape(rows, kv_heads, -1, head_dim)
    lowest = float(jnp.finfo(jnp.float32).min)
    scores = []
    for k, _, seen in parts:
        score = jnp.einsum("rkqh,rkch->rkqc", q, k, preferred_element_type=jnp.float32)
        score = score.reshape(rows, kv_heads, -1, width, k.shape[2])
        scores.append(jnp.where(seen[:, None, None], score, lowest))
    largest_of_parts = [jnp.max(score, axis=-1, keepdims=True, initial=lowest) for score in scores]
    largest = jax.lax.stop_gradient(functools.reduce(lambda a, b: jnp.maximum(a, b), largest_of_parts))
    mixed, total = [], []
    for score, (_, v, _) in zip(scores, parts, strict=True):
        weights = jnp.exp(score - largest)
        total.append(jnp.sum(weights, axis=-1).reshape(rows, kv_heads, -1, 1))
        weights = weights.reshape(rows, kv_heads, -1, v.shape[2]).astype(v.dtype)
        mixed.append(jnp.einsum("rkqc,rkch->rkqh", weights, v, preferred_element_type=jnp.float32))
    out = (sum(mixed[1:], mixed[0]) / sum(total[1:], total[0])).reshape(rows, kv_heads, -1, width, head_dim)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, width, heads, head_dim).astype(q.dtype)
