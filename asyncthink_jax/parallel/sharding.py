"""Which array lives where: two layouts for parameters, one line for rows.

A parameter's dimensions have logical axes, which say what they mean (`model/parameters.py`). A layout gives each
logical axis the mesh axis over which it is split; an axis that it doesn't name is not split. TRAINING splits
parameters and optimizer state over `fsdp` as well as `tensor`. ROLLOUT has them whole on every data/fsdp device: the
decode loop gathers no parameters.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from asyncthink_jax.parallel.mesh import platform_of

Layout = dict[str, str | None]
Axes = tuple[str | None, ...]

TRAINING: Layout = {"vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "width": "fsdp"}
ROLLOUT: Layout = TRAINING | {"width": None}

ROWS = ("data", "fsdp")  # the mesh axes over which rows of a batch are split


def split_by(axes: Axes, shape: Sequence[int], mesh: Mesh | AbstractMesh, layout: Layout, what: str) -> NamedSharding:
    """The sharding of an array whose dimensions have these logical axes (None: not split).

    Raises ValueError, in one line that begins with `what`, for a dimension that its mesh axis doesn't divide.
    """
    spec = [layout.get(axis) if axis else None for axis in axes]
    for size, axis in zip(shape, spec, strict=True):
        if axis and size % mesh.shape[axis]:
            raise ValueError(f"{what} {tuple(shape)}: mesh axis {axis}={mesh.shape[axis]} doesn't divide {size}")
    return NamedSharding(mesh, P(*spec))


def row_spec(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """An array whose dimension `axis` is rows (a training batch: 0)."""
    return NamedSharding(mesh, P(*[None] * axis, ROWS))


def cache_spec(mesh: Mesh) -> NamedSharding:
    """A layer's key or value cache [R, K, C, H], on TPUs [R, C, K, H]: rows over data and fsdp, heads over tensor."""
    return NamedSharding(mesh, P(ROWS, None, "tensor") if platform_of(mesh) == "tpu" else P(ROWS, "tensor"))


def replicated(mesh: Mesh) -> NamedSharding:
    """An array that every device holds whole."""
    return NamedSharding(mesh, P())


def shard(tree: Any, shardings: Any) -> Any:
    """`tree` laid out by `shardings` (one for all, or a tree of them).

    With several processes, each has the same whole `tree` and gives its own devices their parts; nothing is
    communicated. (`jax.device_put` would first compare the whole trees over the network.)
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def of_own_devices(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(of_own_devices, tree, shardings)


def laid_out(tree: Any, shardings: Any) -> Any:
    """The `jax.ShapeDtypeStruct`s of `tree`, with these shardings (one for all, or a tree of them)."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def own_rows(tree: Any) -> Any:
    """This process's rows of arrays that are split by rows, as NumPy arrays, in order.

    Every row belongs to one process: if several hold copies of it, to the process of the first copy.
    """
    if all(x.is_fully_addressable for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)

    def of_array(x: jax.Array) -> np.ndarray:
        parts = {part.index[0].start or 0: part.data for part in x.addressable_shards if part.replica_id == 0}
        own = [np.asarray(parts[start]) for start in sorted(parts)]
        return np.concatenate(own) if own else np.zeros((0, *x.shape[1:]), x.dtype)

    return jax.tree.map(of_array, tree)


def constrain_rows(x: jax.Array) -> jax.Array:
    """Keeps dimension 0 of an activation split as the rows are; the partitioner chooses the other dimensions.

    Otherwise the partitioner may split activations along the width, as the fsdp parameters are.
    """
    return _constrain(x, ROWS, *[P.UNCONSTRAINED] * (x.ndim - 1))


def constrain_table(x: jax.Array, vocab_axis: int = 0) -> jax.Array:
    """Gathers an embedding table [V, D] over fsdp, like any other parameter, before its rows are looked up.

    Otherwise the partitioner looks up parts of rows for the whole batch and then moves them. `vocab_axis` is 1 for the
    output's table [D, V].
    """
    return _constrain(x, *("tensor" if axis == vocab_axis else None for axis in range(2)))


def constrain_stack(x: jax.Array) -> jax.Array:
    """Splits dimension 0 of independent entries [n, ..] over all devices, whatever their later use."""
    return _constrain(x, (*ROWS, "tensor"), *[None] * (x.ndim - 1))


def whole_rows(x: jax.Array) -> jax.Array:
    """Gathers rows [R, ..] over `tensor`, inside a `jax.shard_map` over the rows' axes; elsewhere returns `x`.

    Cutting and padding an array that is split over `tensor` permutes it among all devices. In a loop that each device
    ends for itself, the devices that go on would wait for the others. Gathering concerns the devices of `tensor` alone.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or _is_automatic(mesh) or "tensor" in mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*[None] * x.ndim)))


def row_shards() -> int:
    """The number of devices over which rows are split, inside jit under `jax.set_mesh`; elsewhere 1."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in ROWS) if _is_automatic(mesh) else 1


def on_each_device(function: Callable[..., Any], inputs: Sequence[Axes], output: Axes) -> Callable[..., Any]:
    """`function` applied to each device's own rows: for a kernel, which the partitioner can't split.

    `inputs`, `output`: the mesh axes of an array's dimensions after the rows. Axes over which a surrounding
    `jax.shard_map` maps are split already. If all are, or no mesh is set (`jax.set_mesh`), this is `function` itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    left = {name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto}
    if not left:
        return function
    rows = tuple(axis for axis in ROWS if axis in left)

    def spec(axes: Axes) -> P:
        return P(rows or None, *(axis if axis in left else None for axis in axes))

    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(map(spec, inputs)),
        out_specs=spec(output),
        axis_names=left,
        check_vma=False,
    )


def devices_of_stack() -> int:
    """The number of devices over which `constrain_stack` splits."""
    return math.prod(jax.sharding.get_abstract_mesh().shape.values())


def _constrain(x: jax.Array, *dimensions: Any) -> jax.Array:
    """A sharding constraint inside jit under `jax.set_mesh`; elsewhere, and for a concrete array, returns `x`.

    A dimension that its axes don't divide (a single prompt on a large mesh) is left to the partitioner. So is
    everything inside a `jax.shard_map`, which has split its axes already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not isinstance(x, jax.core.Tracer) or not _is_automatic(mesh):
        return x

    def fits(size: int, axes: Any) -> bool:
        names = (axes,) if isinstance(axes, str) else axes
        return axes in (None, P.UNCONSTRAINED) or size % math.prod(mesh.shape[name] for name in names) == 0

    spec = [axes if fits(size, axes) else P.UNCONSTRAINED for size, axes in zip(x.shape, dimensions, strict=True)]
    return jax.lax.with_sharding_constraint(x, P(*spec))


def _is_automatic(mesh: Any) -> bool:
    """Whether there is a mesh, all in the partitioner's hands."""
    return not mesh.empty and all(kind == AxisType.Auto for kind in mesh.axis_types)
