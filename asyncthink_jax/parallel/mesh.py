"""The device mesh: three axes for three ways to split the work.

data    every device along it has all parameters and its own rows
fsdp    rows are split here too, and parameters and optimizer state with them
tensor  heads, feed-forward and vocabulary are split
"""

import contextlib
import math
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def use_cpu_devices(count: int) -> None:
    """Has JAX use the cores of a CPU as `count` devices, so that a laptop runs the program of a pod.

    A decode loop is many small operations in a row, which one core does as fast as several: with two devices, each with
    half of the slots, rollouts took half the time on 2 cores. To be called before the first use of a device; later, or
    where XLA_FLAGS has set a number, that number stays.
    """
    if count == 1 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # the backend has started
        jax.config.update("jax_num_cpu_devices", count)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all of `devices` (default: every device of every process). One axis may be -1: what is left.

    Raises ValueError, in one line that names the nearest mesh that fits, where the sizes don't multiply to the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _resolve((data, fsdp, tensor), len(devices))
    automatic = (AxisType.Auto,) * len(AXES)
    if devices == jax.devices():
        return jax.make_mesh(sizes, AXES, axis_types=automatic)  # orders devices by the machine's topology
    return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=automatic)


def _resolve(sizes: tuple[int, ...], devices: int) -> tuple[int, ...]:
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise ValueError(f"mesh {_text(sizes)}: sizes are positive, and at most one is -1 (what is left)")
    fixed = math.prod(size for size in sizes if size != -1)
    resolved = tuple(devices // fixed if size == -1 else size for size in sizes)
    if math.prod(resolved) != devices:
        nearest = _nearest(sizes, devices)
        raise ValueError(
            f"mesh {_text(sizes)} doesn't fit {devices} device{'s' * (devices > 1)}; {_text(nearest)} would"
        )
    return resolved


def _nearest(sizes: tuple[int, ...], devices: int) -> tuple[int, ...]:
    """The mesh that fits whose sizes change least (as ratios), tensor first and data last to be kept."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    meshes = [(devices // (f * t), f, t) for f in divisors for t in divisors if devices % (f * t) == 0]

    def distance(mesh: tuple[int, ...]) -> float:
        weights = (1.0, 1.1, 1.2)
        return sum(w * abs(math.log(m / s)) for w, m, s in zip(weights, mesh, sizes, strict=True) if s != -1)

    return min(meshes, key=distance)


def _text(sizes: tuple[int, ...]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
