"""The key/value cache of rollouts, and the order of its axes in memory.

Each layer has an array of keys and one of values: [R, K, C, H]. On TPUs their order is [R, C, K, H], the order in which
the compiler writes single positions; any other order costs a copy of the whole cache. On CPUs the first half and the
first three quarters of the positions are kept once more, as arrays of their own: rows are seldom full, attention takes
as long as reading its keys, and on a CPU reading a part of an array copies that part. So a step reads the shortest
array that holds all positions of its rows. Only this file and `parallel/sharding.py:cache_spec` depend on this order.

Shapes: R rows, K key/value heads, C positions, H head dim, W or L new tokens per row.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from asyncthink_jax.parallel.mesh import platform

Arrays = tuple[Float[Array, "R K _ H"], ...]  # the keys or values of a layer: the first positions, all positions
Layer = tuple[Arrays, Arrays]  # keys, values
Cache = dict[str, tuple[Arrays, ...]]  # "k" and "v", the arrays of each layer; on TPUs [R, C, K, H]

ROUND_UP = 16  # the lengths of shorter arrays are multiples of it


def heads_first() -> bool:
    """Whether an array is [R, K, C, H] on the devices in use."""
    return platform() != "tpu"


def kept_lengths(length: int) -> tuple[int, ...]:
    """The lengths of the arrays of a cache of `length` positions, in ascending order; the last one is `length`."""
    if platform() != "cpu":
        return (length,)
    parts = {-(-length * quarters // 4 // ROUND_UP) * ROUND_UP for quarters in (2, 3)}
    return (*sorted(part for part in parts if part < length), length)


def reads_enough(length: int) -> bool:
    """Whether a step itself chooses how much of a cache of `length` positions it reads."""
    return len(kept_lengths(length)) > 1


def empty(layers: int, rows: int, kv_heads: int, lengths: Sequence[int], head_dim: int, dtype: str) -> Cache:
    """A cache of zeros: per layer, an array of keys and one of values for each of `lengths`."""

    def zeros(length: int) -> Array:
        middle = (kv_heads, length) if heads_first() else (length, kv_heads)
        return jnp.zeros((rows, *middle, head_dim), dtype)

    return {name: tuple(tuple(map(zeros, lengths)) for _ in range(layers)) for name in ("k", "v")}


def row_count(cache: Cache) -> int:
    """R."""
    return cache["k"][0][0].shape[0]


def stored(new: Float[Array, "R L K H"]) -> Float[Array, "R K L H"]:
    """Keys or values of whole rows in the axis order of the cache (on TPUs [R, L, K, H])."""
    return new.swapaxes(1, 2) if heads_first() else new


def write(layer: Layer, positions: Int[Array, "R W"], new: Sequence[Float[Array, "R W K H"]]) -> Layer:
    """Puts new keys and values at `positions` of each row; positions < 0 are dropped."""
    keys, values = (
        tuple(_written(array, positions, one) for array in arrays) for arrays, one in zip(layer, new, strict=True)
    )
    return keys, values


def _written(
    array: Float[Array, "R K C H"], positions: Int[Array, "R W"], new: Float[Array, "R W K H"]
) -> Float[Array, "R K C H"]:
    heads_lead = heads_first()
    length = array.shape[2 if heads_lead else 1]
    indices = jnp.where(positions < 0, length, positions)  # past the end, since a negative index would wrap

    def of_row(row: Array, at: Array, n: Array) -> Array:
        return row.at[:, at].set(n.swapaxes(0, 1), mode="drop") if heads_lead else row.at[at].set(n, mode="drop")

    # The map over rows tells the partitioner that a row writes only to itself.
    return jax.vmap(of_row)(array, indices, new)


def read(
    layer: Layer,
    positions: Int[Array, "R W"],
    length: int | None,
    use: Callable[[Float[Array, "R K L H"], Float[Array, "R K L H"]], Array],
) -> Array:
    """Calls `use` with the keys and values of the first positions, heads first in any order of the cache.

    It gets the first `length` positions (None: all), or, if the cache has several arrays, the shortest array that holds
    all `positions`.
    """
    keys, values = layer
    if len(keys) == 1:
        if heads_first():
            return use(keys[0][:, :, :length], values[0][:, :, :length])
        return use(keys[0][:, :length].swapaxes(1, 2), values[0][:, :length].swapaxes(1, 2))
    pairs = [*zip(keys, values, strict=True)]
    last = jnp.max(positions)
    too_short = sum((last >= array.shape[2]).astype(jnp.int32) for array in keys[:-1])
    return jax.lax.switch(too_short, [lambda pairs, n=n: use(*pairs[n]) for n in range(len(pairs))], pairs)


def put_row(cache: Cache, row: Int[Array, ""], kept: Cache, entry: Int[Array, ""]) -> Cache:
    """Copies row `entry` of the cache `kept`, whose rows are at most as long, to row `row` of `cache`."""

    def into(array: Array, arrays: Arrays) -> Array:
        axis = 2 if heads_first() else 1
        one = jax.lax.dynamic_slice_in_dim(arrays[-1], entry, 1)
        one = jax.lax.slice_in_dim(one, 0, min(one.shape[axis], array.shape[axis]), axis=axis)
        return jax.lax.dynamic_update_slice_in_dim(array, one, row, 0)

    return {
        name: tuple(
            tuple(into(array, other) for array in arrays) for arrays, other in zip(layers, kept[name], strict=True)
        )
        for name, layers in cache.items()
    }


def split_rows(x: Float[Array, "R ..."], sizes: Sequence[int], groups: int) -> list[Float[Array, "r ..."]]:
    """The rows of each of several caches, which have `sizes` rows; see `transformer.decode`."""
    x = x.reshape(groups, -1, *x.shape[1:])
    ends = np.cumsum(sizes)[:-1] // groups
    return [part.reshape(-1, *part.shape[2:]) for part in jnp.split(x, ends, axis=1)]


def merge_rows(parts: Sequence[Float[Array, "r ..."]], groups: int) -> Float[Array, "R ..."]:
    """The inverse of `split_rows`."""
    x = jnp.concatenate([part.reshape(groups, -1, *part.shape[1:]) for part in parts], axis=1)
    return x.reshape(-1, *x.shape[2:])
