"""What the accelerators that programs are compiled for can do, and how to have their devices without having them.

Sources: the vendor's system architecture pages (peak rates, HBM, interconnect), and for what of the HBM a program may
use, the limit that the TPU compiler itself reports.
"""

import dataclasses
import os
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import jax
from jax.experimental import topologies

GIB = 2**30
# The TPU runtime asks a metadata server what machine it is on; without a TPU nobody answers. The first three say it in
# advance; the last lets several processes compile, which is safe where none of them has a TPU.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip: a device of JAX from v4 on."""

    hbm: float  # bytes that a program may use
    flops: float  # bf16 FLOP/s
    bandwidth: float  # bytes/s from and to HBM
    interconnect: float  # bytes/s that all links to other chips bring in, together


CHIPS = {
    "v4": Chip(hbm=30.75 * GIB, flops=275e12, bandwidth=1228e9, interconnect=300e9),
    "v5e": Chip(hbm=15.75 * GIB, flops=197e12, bandwidth=819e9, interconnect=200e9),
    "v5p": Chip(hbm=95.74 * GIB, flops=459e12, bandwidth=2765e9, interconnect=600e9),
    "v6e": Chip(hbm=31.25 * GIB, flops=918e12, bandwidth=1638e9, interconnect=448e9),
}


class TopologyError(ValueError):
    """A topology that can't be compiled for; the message is one line for the reader."""


def wrong_compiler() -> str | None:
    """Why the TPU compiler that is installed may fail: it is not the one that this jax asks for. Else None."""
    asked = next((one for one in requires("jax") or () if one.startswith("libtpu==")), "").partition(";")[0].strip()
    try:
        found = version("libtpu")
    except PackageNotFoundError:
        return None
    release = asked.removeprefix("libtpu==").removesuffix(".*")
    if not asked or f"{found}.".startswith(f"{release}."):
        return None
    return f"libtpu {found} is installed, but jax {jax.__version__} works with {asked}: pip install '{asked}'"


def topology(name: str, slices: int = 1) -> tuple[Chip, list[Any]]:
    """The chip of a topology such as "v5p:4x4x4" or "v5e:8x8", and its devices, to compile for.

    `slices`: their number; they are joined by the data center's network. Raises TopologyError where the name is wrong,
    or the TPU compiler isn't installed.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not shape:
        raise TopologyError(
            f"--topology {name!r}: must be a chip ({', '.join(CHIPS)}) and a shape, such as v5e:8x8 or v5p:4x4x4"
        )
    for variable, value in _NO_TPU.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if kind == "v4":  # as JAX has them on a TPU VM: else each of a chip's two cores is a device
        options["chip_config_name"] = "megacore"
    if set(shape.split("x")) == {"1"}:  # not a part of a host's chips, which is refused, but a host of one chip
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return CHIPS[kind], list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except Exception as error:  # the runtime's own types, which say nothing
        message = " ".join(str(error).split())
        if "TPU support not installed" in message:
            raise TopologyError(
                "the TPU compiler is not installed: pip install 'asyncthink_jax[tpu]' (no TPU is needed)"
            ) from error
        raise TopologyError(f"--topology {name!r}: {wrong_compiler() or message}") from error
