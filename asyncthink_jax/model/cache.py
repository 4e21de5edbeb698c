"""The key/value cache of rollouts, and the order in which it lies in memory.

An array for each layer, keys and values apart: [R, K, C, H]. On TPUs it is [R, C, K, H], as their compiler lays out
what single places are written to; from another order it would copy all of it. Nothing but this file and
`parallel/sharding.py:cache_spec` knows of it.

Shapes: R rows, K key/value heads, C places, H head dim, W or L new tokens a row.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from asyncthink_jax.parallel.mesh import platform

Cache = dict[str, tuple[Float[Array, "R K C H"], ...]]  # "k" and "v", an array for each layer; on TPUs [R, C, K, H]


def heads_first() -> bool:
    """Whether an array is [R, K, C, H] on the devices in use."""
    return platform() != "tpu"


def empty(layers: int, rows: int, kv_heads: int, length: int, head_dim: int, dtype: str) -> Cache:
    """A cache of zeros."""
    middle = (kv_heads, length) if heads_first() else (length, kv_heads)
    shape = (rows, *middle, head_dim)
    return {name: tuple(jnp.zeros(shape, dtype) for _ in range(layers)) for name in ("k", "v")}


def stored(new: Float[Array, "R L K H"]) -> Float[Array, "R K L H"]:
    """Keys or values of rows that are read at once, as an array of a cache (on TPUs [R, L, K, H])."""
    return new.swapaxes(1, 2) if heads_first() else new


def read(array: Float[Array, "R K C H"], length: int | None = None) -> Float[Array, "R K length H"]:
    """The first `length` places of an array, heads first whatever the order is."""
    return array[:, :, :length] if heads_first() else array[:, :length].swapaxes(1, 2)


def write(
    array: Float[Array, "R K C H"], positions: Int[Array, "R W"], new: Float[Array, "R W K H"]
) -> Float[Array, "R K C H"]:
    """Puts `new` at `positions` of each row of an array; positions < 0 are dropped."""
    heads_lead = heads_first()
    length = array.shape[2 if heads_lead else 1]
    places = jnp.where(positions < 0, length, positions)  # past the end, since a negative index would wrap

    def of_row(row: Array, at: Array, n: Array) -> Array:
        return row.at[:, at].set(n.swapaxes(0, 1), mode="drop") if heads_lead else row.at[at].set(n, mode="drop")

    # A map over rows: it tells the partitioner that a row writes to itself alone.
    return jax.vmap(of_row)(array, places, new)


def write_both(arrays: Sequence[Array], positions: Array, new: Sequence[Array]) -> tuple[Array, Array]:
    """`write` for keys and values."""
    return write(arrays[0], positions, new[0]), write(arrays[1], positions, new[1])


def split_rows(x: Float[Array, "R ..."], sizes: Sequence[int], groups: int) -> list[Float[Array, "r ..."]]:
    """The rows that live in each of several caches of `sizes` rows, see `transformer.decode`."""
    x = x.reshape(groups, -1, *x.shape[1:])
    ends = np.cumsum(sizes)[:-1] // groups
    return [part.reshape(-1, *part.shape[2:]) for part in jnp.split(x, ends, axis=1)]


def merge_rows(parts: Sequence[Float[Array, "r ..."]], groups: int) -> Float[Array, "R ..."]:
    """The inverse of `split_rows`."""
    x = jnp.concatenate([part.reshape(groups, -1, *part.shape[1:]) for part in parts], axis=1)
    return x.reshape(-1, *x.shape[2:])
