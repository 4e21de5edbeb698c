"""Attention: the one place that chooses an implementation.

Two shapes of it exist. `packed` serves training: rows in which several traces stand one after the other. `cached`
serves decoding: a few new tokens per row against the row's key/value cache. Both end in `attend`, whose layout was
measured on 2 CPU cores (ms of processor time per core, jax 0.10.2; 3 layers, width 128, 4/2 heads of 32):

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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def packed(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L K H"],
    v: Float[Array, "B L K H"],
    segment_ids: Int[Array, "B L"],
) -> Float[Array, "B L N H"]:
    """Causal attention within each segment of each row (order = place in the row)."""
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    seen = same & jnp.tril(jnp.ones(same.shape[1:], bool))
    if jax.default_backend() == "gpu" and q.dtype != jnp.float32:  # cuDNN's fused attention knows 16-bit types alone
        return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None], implementation="cudnn")
    return attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), seen)


def cached(
    q: Float[Array, "R W N H"],
    k: Float[Array, "R K C H"],
    v: Float[Array, "R K C H"],
    positions: Int[Array, "R W"],
) -> Float[Array, "R W N H"]:
    """Attention of new tokens to the cache positions up to and including their own."""
    return attend(q, k, v, jnp.arange(k.shape[2]) <= positions[:, :, None])


def attend(
    q: Float[Array, "R W N H"],
    k: Float[Array, "R K C H"],
    v: Float[Array, "R K C H"],
    seen: Bool[Array, "R W C"],
) -> Float[Array, "R W N H"]:
    """Softmax attention in fp32 where `seen`; a query that sees nothing gets some finite value.

    The queries that read the same keys (G = N/K heads, W tokens each) make one matrix; the batch dimensions R and K
    lead on both sides, so that no key or value is transposed.
    """
    rows, width, heads, head_dim = q.shape
    kv_heads, length = k.shape[1:3]
    q = (q * head_dim**-0.5).reshape(rows, width, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)  # [R, K, G, W, H]
    scores = jnp.einsum(
        "rkqh,rkch->rkqc", q.reshape(rows, kv_heads, -1, head_dim), k, preferred_element_type=jnp.float32
    ).reshape(rows, kv_heads, -1, width, length)
    scores = jnp.where(seen[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1).reshape(rows, kv_heads, -1, 1)
    weights = weights.reshape(rows, kv_heads, -1, length).astype(v.dtype)
    mixed = jnp.einsum("rkqc,rkch->rkqh", weights, v, preferred_element_type=jnp.float32) / total
    mixed = mixed.reshape(rows, kv_heads, -1, width, head_dim).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(rows, width, heads, head_dim).astype(q.dtype)
