"""The tensors of a file: one for each parameter of a model, or for each layer of it."""

import dataclasses
from collections.abc import Mapping

from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.parameters import SIZES, Naming, Parameter, rows


class WeightsError(ValueError):
    """Weights that cannot be used; the message is one line for the reader."""


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """One tensor of a file: of a parameter, or of one layer of it."""

    row: Parameter
    layer: int
    name: str
    shape: tuple[int, ...]


def check_sizes(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raises WeightsError for a size that no tensor in the files has. `where` names the file that states it.

    A file may state any number. Call this before anything is made per layer or of such a size.
    """
    if config.layers > len(shapes):
        raise WeightsError(f"{where}: {config.layers} layers are stated, but there are {len(shapes)} tensors")
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for name in dict.fromkeys(SIZES.values()):
        stated = f"{name.replace('_', ' ')} {getattr(config, name)}"
        if getattr(config, name) > largest:
            raise WeightsError(f"{where}: {stated} is stated, but no tensor has more than {largest} along an axis")
        if getattr(config, name) < 1:
            raise WeightsError(f"{where}: {stated} is stated, must be above 0")
    if config.heads % config.kv_heads or config.head_dim % 2:
        stated = f"{config.heads} heads, {config.kv_heads} of keys and values, of {config.head_dim} entries"
        raise WeightsError(f"{where}: {stated}: the first must be a multiple of the second, and the last even")


def file_tensors(config: ModelConfig, naming: Naming) -> list[FileTensor]:
    """All tensors that a file of such a model holds, layer by layer."""
    found = [
        FileTensor(row, layer, row.name(naming, layer), row.file_shape(config))
        for row in rows(config)
        for layer in range(config.layers if row.in_layers else 1)
    ]
    return sorted(found, key=lambda one: (one.row.in_layers, one.layer))
