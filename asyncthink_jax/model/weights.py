"""Weights in: released models, from files straight into sharded arrays.

    weights = open_weights("Qwen/Qwen3-0.6B")        # a hub id, a folder, a .gguf file, or gs://..
    params = load(weights, weights.config, shardings)

No tensor is read before names, shapes and sizes are checked. Then each device's part of a parameter is read on its own,
layer by layer, and put on the device. The host never holds more than one such part beside the arrays.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from asyncthink_jax.model import transformer
from asyncthink_jax.model.gguf_file import GgufFile
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.parameters import BY_PATH, Naming, Parameter, path_name, rows
from asyncthink_jax.model.safetensors_folder import SafetensorsFolder
from asyncthink_jax.model.sources import local_path
from asyncthink_jax.model.tensors import WeightsError, file_tensors
from asyncthink_jax.model.transformer import Params

Bounds = list[tuple[int, int]]  # first and last + 1 of each dimension

# Fields of ModelConfig that don't describe the released model: types, recomputation, adapters.
_FREE = ("dtype", "remat", "lora")


class Weights(Protocol):
    """Opened files with the tensors of one model, in the layout of Hugging Face."""

    path: Path
    naming: Naming
    config: ModelConfig
    context: int | None  # tokens that the model was made for
    special_tokens: dict[str, Any]  # bos_token_id, eos_token_id, pad_token_id, where the file states them

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""

    def where(self, name: str) -> str:
        """The file that holds a tensor."""

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor (slices of step 1, one for each dimension), in a floating-point type."""


def open_weights(source: str | Path) -> Weights:
    """Opens a folder of safetensors files or a .gguf file: a local one, gs://.., or a hub id. Raises WeightsError.

    A folder without a config.json may hold one .gguf file.
    """
    path = local_path(source)
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file() or not files:
            return _fitting(SafetensorsFolder(path))
        if len(files) > 1:
            raise WeightsError(f"{path} holds {len(files)} .gguf files and no config.json: name one of them")
        path = files[0]
    if path.suffix != ".gguf":
        raise WeightsError(f"{path} is neither a folder of safetensors files nor a .gguf file")
    return _fitting(GgufFile(path))


def _fitting(weights: Weights) -> Weights:
    """The weights, if their tensors have the sizes that the file states; so callers can rely on `config`."""
    check(weights, weights.config)
    return weights


def check(weights: Weights, config: ModelConfig) -> None:
    """Raises WeightsError, in one line, at the first field, name or shape that differs from `config`."""
    for field in dataclasses.fields(ModelConfig):
        expected, got = getattr(config, field.name), getattr(weights.config, field.name)
        if field.name not in _FREE and expected != got:
            raise WeightsError(f"{weights.path}: {field.name}: expected {expected}, got {got}")
    shapes = weights.shapes()
    wanted = {one.name: one.shape for one in file_tensors(config, weights.naming)}
    for name, shape in wanted.items():
        if name not in shapes:
            raise WeightsError(f"{weights.path}: tensor {name} is missing, expected {list(shape)}")
        if shapes[name] != shape:
            raise WeightsError(
                f"{weights.where(name)}: tensor {name}: expected shape {list(shape)}, got {list(shapes[name])}"
            )
    # A tied output matrix is the embedding again, and rotary frequencies follow from the config.
    known = wanted.keys() | ({BY_PATH["unembed"].name(weights.naming)} if config.tied_embeddings else set())
    for name in shapes:
        if name not in known and not name.endswith("rotary_emb.inv_freq"):
            raise WeightsError(f"{weights.where(name)}: tensor {name} {list(shapes[name])} is not part of the model")


def load(weights: Weights, config: ModelConfig | None = None, shardings: Any = None, dtype: str = "float32") -> Params:
    """The parameters of `config` (default: the file's), checked first.

    Args:
        shardings: a tree like the parameters', see `parameters.param_specs`; default: all on one device. With
            several processes, each reads only the parts of its own devices.
        dtype: of the parameters.

    Raises:
        WeightsError: the files hold another model, see `check`, or a number that isn't finite.
    """
    config = config or weights.config
    check(weights, config)
    abstract, by_path = transformer.abstract_params(config), {row.path: row for row in rows(config)}
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: one, abstract)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, sharding: _load(weights, by_path[path_name(path)], leaf.shape, sharding, np.dtype(dtype)),
        abstract,
        shardings,
    )


def _load(
    weights: Weights, row: Parameter, shape: tuple[int, ...], sharding: jax.sharding.Sharding, dtype: np.dtype
) -> jax.Array:
    # `jax.make_array_from_callback` would first collect the parts of all devices, a second copy of the parameter.
    devices: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None  # of an addressable device
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    parts = []
    for bounds, holders in devices.items():
        part = _read_part(weights, row, shape, list(bounds), dtype)
        parts += [jax.device_put(part, device) for device in holders]
        jax.block_until_ready(parts[-len(holders) :])
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _read_part(weights: Weights, row: Parameter, shape: tuple[int, ...], bounds: Bounds, dtype: np.dtype) -> np.ndarray:
    """The part of a parameter of shape `shape` that lies within `bounds`."""
    if not row.in_layers:
        part = _read(weights, row, row.name(weights.naming), shape, bounds)
        return np.ascontiguousarray(part, dtype)
    out = np.empty([stop - start for start, stop in bounds], dtype)
    for n, layer in enumerate(range(*bounds[0])):
        out[n] = _read(weights, row, row.name(weights.naming, layer), shape[1:], bounds[1:])
    return out


def _read(weights: Weights, row: Parameter, name: str, shape: tuple[int, ...], bounds: Bounds) -> np.ndarray:
    """A part of one tensor of the file, in the parameter's layout. Raises WeightsError if it isn't finite."""

    def read(*index: slice) -> np.ndarray:
        part = weights.read(name, index)
        if not np.isfinite(part).all():
            raise WeightsError(f"{weights.where(name)}: tensor {name} has numbers that are not finite (NaN, infinity)")
        return part

    groups = row.file_axes
    part = read(*(_flat(shape, bounds, group) for group in groups))
    part = part.reshape([length for group in groups for length in _lengths(shape, bounds, group)])
    part = part.transpose(np.argsort([axis for group in groups for axis in group]))
    # Of the axes that a file flattens into one, all but the first were read whole.
    first = {group[0] for group in groups}
    return part[tuple(slice(None) if n in first else slice(*bound) for n, bound in enumerate(bounds))]


def _flat(shape: tuple[int, ...], bounds: Bounds, group: tuple[int, ...]) -> slice:
    """The part of a file's axis that holds the entries within `bounds` of the first of the axes flattened into it."""
    rest = math.prod(shape[axis] for axis in group[1:])
    start, stop = bounds[group[0]]
    return slice(start * rest, stop * rest)


def _lengths(shape: tuple[int, ...], bounds: Bounds, group: tuple[int, ...]) -> list[int]:
    start, stop = bounds[group[0]]
    return [stop - start, *(shape[axis] for axis in group[1:])]
