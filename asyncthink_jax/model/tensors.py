"""Which tensor of a file is which parameter: one table for Hugging Face names, GGUF names, and the layout.

In files a linear map is a matrix [outputs, inputs], one for each layer; here it is [layers, *inputs, *outputs], see
`transformer.py`. What is no linear map has the same layout in both.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import jax

from asyncthink_jax.model import transformer
from asyncthink_jax.model.transformer import ModelConfig

Naming = Literal["hf", "gguf"]


class WeightsError(ValueError):
    """Weights that cannot be used; the message is one line for the reader."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A line of the table."""

    path: str  # of the parameter; under `layers/` it is a stack of one tensor a layer
    hf: str
    gguf: str
    inputs: int | None = None  # of a linear map: how many of the parameter's axes (without `layers`) are its inputs

    @property
    def stacked(self) -> bool:
        return self.path.startswith("layers/")

    def name(self, naming: Naming, layer: int = 0) -> str:
        """Its name in a file."""
        return (self.hf if naming == "hf" else self.gguf).format(layer)

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in a file of a parameter (of one layer) of shape `shape`."""
        if self.inputs is None:
            return shape
        return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])


_HF, _GGUF = "model.layers.{0}.", "blk.{0}."
TENSORS: tuple[Tensor, ...] = (
    Tensor("embed", "model.embed_tokens.weight", "token_embd.weight"),
    Tensor("unembed", "lm_head.weight", "output.weight", inputs=1),
    Tensor("final_norm/scale", "model.norm.weight", "output_norm.weight"),
    Tensor("layers/attention_norm/scale", _HF + "input_layernorm.weight", _GGUF + "attn_norm.weight"),
    Tensor("layers/q/kernel", _HF + "self_attn.q_proj.weight", _GGUF + "attn_q.weight", inputs=1),
    Tensor("layers/k/kernel", _HF + "self_attn.k_proj.weight", _GGUF + "attn_k.weight", inputs=1),
    Tensor("layers/v/kernel", _HF + "self_attn.v_proj.weight", _GGUF + "attn_v.weight", inputs=1),
    Tensor("layers/o/kernel", _HF + "self_attn.o_proj.weight", _GGUF + "attn_output.weight", inputs=2),
    Tensor("layers/q_norm/scale", _HF + "self_attn.q_norm.weight", _GGUF + "attn_q_norm.weight"),
    Tensor("layers/k_norm/scale", _HF + "self_attn.k_norm.weight", _GGUF + "attn_k_norm.weight"),
    Tensor("layers/mlp_norm/scale", _HF + "post_attention_layernorm.weight", _GGUF + "ffn_norm.weight"),
    Tensor("layers/gate/kernel", _HF + "mlp.gate_proj.weight", _GGUF + "ffn_gate.weight", inputs=1),
    Tensor("layers/up/kernel", _HF + "mlp.up_proj.weight", _GGUF + "ffn_up.weight", inputs=1),
    Tensor("layers/down/kernel", _HF + "mlp.down_proj.weight", _GGUF + "ffn_down.weight", inputs=1),
)
BY_PATH = {tensor.path: tensor for tensor in TENSORS}


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """One tensor of a file: of a parameter, or of one layer of it."""

    tensor: Tensor
    layer: int
    name: str
    shape: tuple[int, ...]


def check_sizes(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raises WeightsError for a size that no tensor in the files can have. `where` names the file that states it.

    What a file states may be any number. This comes before anything is made for each layer, or of such a size.
    """
    if config.layers > len(shapes):
        raise WeightsError(f"{where}: {config.layers} layers are stated, but there are {len(shapes)} tensors")
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for name in ("vocab_size", "width", "heads", "kv_heads", "head_dim", "mlp_width"):
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
    shapes = {path_name(path): leaf.shape for path, leaf in _leaves(config)}
    missing = shapes.keys() - BY_PATH.keys()
    assert not missing, f"no line of the table in model/tensors.py names {sorted(missing)}"
    found = []
    for tensor in TENSORS:
        if tensor.path in shapes:
            layers, shape = config.layers if tensor.stacked else 1, shapes[tensor.path][tensor.stacked :]
            for layer in range(layers):
                found.append(FileTensor(tensor, layer, tensor.name(naming, layer), tensor.file_shape(shape)))
    return sorted(found, key=lambda one: (one.tensor.stacked, one.layer))


def path_name(path: tuple[object, ...]) -> str:
    """A path of a parameter tree as text: `layers/q/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _leaves(config: ModelConfig) -> list[tuple[tuple[object, ...], jax.ShapeDtypeStruct]]:
    return jax.tree_util.tree_leaves_with_path(transformer.abstract_params(config))
