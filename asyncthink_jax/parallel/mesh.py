"""The device mesh: three axes for three ways to split the work.

data    each device along it has all parameters and its own rows
fsdp    rows are split here too, and so are parameters and optimizer state
tensor  heads, feed-forward and vocabulary are split
"""

import contextlib
import math
import os
from collections.abc import Callable, Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def use_cpu_devices(count: int) -> None:
    """Makes JAX show the cores of a CPU as `count` devices, so that a laptop runs the program of a pod.

    A decode loop is many small operations in a row, which one core does as fast as several: with two devices, each with
    half of the slots, rollouts took half the time on 2 cores. Call it before the first use of a device. Afterwards, or
    if XLA_FLAGS sets a number, it changes nothing.
    """
    if count == 1 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # the backend has started
        jax.config.update("jax_num_cpu_devices", count)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all of `devices` (default: every device of every process). One axis may be -1: all devices left.

    Neighbours in the mesh are neighbours in the machine where possible. Several TPU slices are joined only by the data
    center's network, so `data` is split over them, since it sends the least.

    Raises ValueError, in one line that names the nearest mesh that fits, if the sizes don't multiply to the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _resolve((data, fsdp, tensor), len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        nearest = nearest_mesh(sizes, len(devices), lambda mesh: mesh[0] % slices == 0)
        assert nearest is not None
        raise ValueError(
            f"mesh {mesh_text(sizes)}: data must be a multiple of the {slices} slices, as in {mesh_text(nearest)}"
        )
    # An axis of the mesh may be a part of an axis of the machine: 8x8x8 chips have no axis of the size tensor=4.
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        within, across = (sizes[0] // slices, *sizes[1:]), (slices, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform() -> str:
    """ "cpu", "gpu" or "tpu": of the devices in the mesh set by `jax.set_mesh`, otherwise of this machine's devices.

    The program may only be compiled for the devices of the mesh; they need not exist here.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None or device.platform is None else device.platform


def platform_of(mesh: Mesh) -> str:
    """The `platform` of a given mesh, whether it is set or not."""
    return mesh.devices.flat[0].platform


def nearest_mesh(
    sizes: Sequence[int], devices: int, fits: Callable[[tuple[int, ...]], bool] = lambda mesh: True
) -> tuple[int, ...] | None:
    """The mesh over `devices` devices that `fits` and whose sizes change least (as ratios; tensor is kept first)."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    meshes = [(devices // (f * t), f, t) for f in divisors for t in divisors if devices % (f * t) == 0]

    def distance(mesh: tuple[int, ...]) -> float:
        weights = (1.0, 1.1, 1.2)
        return sum(w * abs(math.log(m / s)) for w, m, s in zip(weights, mesh, sizes, strict=True) if s != -1)

    return min(filter(fits, meshes), key=distance, default=None)


def _resolve(sizes: tuple[int, ...], devices: int) -> tuple[int, ...]:
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise ValueError(f"mesh {mesh_text(sizes)}: sizes are positive, and at most one is -1 (what is left)")
    fixed = math.prod(size for size in sizes if size != -1)
    resolved = tuple(devices // fixed if size == -1 else size for size in sizes)
    if math.prod(resolved) != devices:
        nearest = nearest_mesh(sizes, devices)
        assert nearest is not None  # all devices on data is one
        raise ValueError(
            f"mesh {mesh_text(sizes)} doesn't fit {devices} device{'s' * (devices > 1)}; {mesh_text(nearest)} would"
        )
    return resolved


def mesh_text(sizes: Sequence[int]) -> str:
    """As in "data=2 x fsdp=4 x tensor=1"."""
    return " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
