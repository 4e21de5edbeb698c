"""Meshes that fit, and one clear line for those that don't."""

import dataclasses
import itertools
import os
import subprocess
import sys

import jax
import pytest

from asyncthink_jax.parallel.mesh import AXES, make_mesh


def refusal(devices, **sizes):
    with pytest.raises(ValueError) as error:
        make_mesh(**sizes, devices=jax.devices()[:1] * devices)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_the_default_mesh_has_every_device_on_data():
    mesh = make_mesh()
    assert mesh.axis_names == AXES
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "nearest"),
    [
        ({"data": 3}, "data=8 x fsdp=1 x tensor=1"),
        ({"data": 2, "fsdp": 2}, "data=4 x fsdp=2 x tensor=1"),
        ({"data": 4, "fsdp": 4, "tensor": 2}, "data=1 x fsdp=4 x tensor=2"),
        ({"tensor": 3}, "data=2 x fsdp=1 x tensor=4"),
        ({"data": 1, "fsdp": 16, "tensor": 1}, "data=1 x fsdp=8 x tensor=1"),
    ],
    ids=str,
)
def test_a_mesh_that_does_not_fit_is_refused_and_the_nearest_named(sizes, nearest):
    message = refusal(8, **sizes)
    assert "doesn't fit 8 devices" in message
    assert message.endswith(f"{nearest} would")


@pytest.mark.parametrize("sizes", [{"data": 0}, {"fsdp": -2}, {"data": -1, "tensor": -1}], ids=str)
def test_sizes_must_be_positive_and_one_at_most_is_left_open(sizes):
    assert "at most one is -1" in refusal(8, **sizes)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a TPU."""

    coords: tuple[int, ...]
    id: int
    slice_index: int = 0
    device_kind: str = "TPU v5"  # v5p
    platform: str = "tpu"
    process_index: int = 0
    core_on_chip: int = 0


@pytest.mark.parametrize(
    ("shape", "slices", "sizes"),
    [
        ((4, 4, 4), 1, (1, 16, 4)),
        ((8, 8, 8), 1, (1, 128, 4)),
        ((8, 8, 8), 1, (16, 8, 4)),
        ((4, 4, 8), 1, (1, 16, 8)),
        ((8, 8, 8), 2, (2, 128, 4)),
    ],
    ids=str,
)
def test_neighbours_on_the_tensor_axis_are_neighbours_in_the_machine(shape, slices, sizes):
    places = list(itertools.product(range(slices), *map(range, shape)))
    chips = [Chip(tuple(coords), number, which) for number, (which, *coords) in enumerate(places)]
    mesh = make_mesh(*sizes, devices=chips)
    assert tuple(mesh.shape.values()) == sizes
    assert {chip.id for chip in mesh.devices.flat} == set(range(len(chips)))
    for group in mesh.devices.reshape(-1, sizes[2]):
        assert len({chip.slice_index for chip in group}) == 1
        for one, other in itertools.pairwise(group):
            apart = [min(abs(a - b), n - abs(a - b)) for a, b, n in zip(one.coords, other.coords, shape, strict=True)]
            assert sum(apart) == 1, (one, other)


def test_cores_can_be_used_as_devices_until_one_is_in_use():
    program = """
import jax
from asyncthink_jax.parallel.mesh import make_mesh, use_cpu_devices
use_cpu_devices(2)
print(make_mesh().shape["data"])
use_cpu_devices(3)
print(jax.device_count())
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["2", "2"], run.stderr
