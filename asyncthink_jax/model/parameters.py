"""ONE table of the parameters of a model: all that is known of a parameter stands in its row.

    Parameter("layers/q/kernel", "width -> heads head_dim", hf="self_attn.q_proj.weight", gguf="attn_q.weight")

Shapes and initial values (`model/transformer.py`), shardings (`param_specs`), the matrices that Muon orthogonalizes and
weight decay pulls at (`training/optimizer.py`), names and layouts in files (`model/tensors.py`) and FLOPs
(`audit/step_costs.py`) are derived from it.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax.nn.initializers import Initializer, normal, ones
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from asyncthink_jax.model.lora import is_adapter
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.parallel.mesh import AXES
from asyncthink_jax.parallel.sharding import ROLLOUT, TRAINING, Axes, Layout, split_by

Naming = Literal["hf", "gguf"]

MAX_REPLICATED = 16  # elements of an array without a row, such as an optimizer's step counter


# Logical axis -> the field of ModelConfig that is its size. How each is split over a mesh: `parallel/sharding.py`.
SIZES = {
    "vocab": "vocab_size",
    "width": "width",
    "norm": "width",  # of a vector beside the residual stream, which every device holds whole
    "heads": "heads",
    "kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "mlp": "mlp_width",
}

# Qwen3's `initializer_range`. With variance scaling the layers' larger outputs drown the embedding: learning to copy a
# sequence (tiny preset, Adam 2e-3), the loss after 60 steps was 3.41 instead of 0.21.
_NORMAL = normal(0.02)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A row of the table.

    Attributes:
        path: in the parameter tree. Under `layers/` it is a stack [layers, ..] of one array a layer.
        axes: the logical axis of each dimension, without `layers`. An arrow makes it the kernel of a linear map:
            inputs -> outputs.
        hf: the name in files of Hugging Face; in a layer, what follows `model.layers.N.`.
        gguf: the name in GGUF files; in a layer, what follows `blk.N.`.
        initializer: of fresh parameters, of one layer.
        when: the flag of ModelConfig with which a model has it, or "not " and the flag; "" = always.
        rope: its outputs go through the rotary embedding; the GGUF files of some families have the rows of each head in
            another order.
    """

    path: str
    axes: str
    hf: str
    gguf: str
    initializer: Initializer = _NORMAL
    when: str = ""
    rope: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The axes that a linear map sums over, which come first; () for what is no linear map."""
        return tuple(self.axes.partition("->")[0].split()) if "->" in self.axes else ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The axes after `inputs`."""
        return tuple(self.axes.rpartition("->")[2].split())

    @property
    def in_layers(self) -> bool:
        return self.path.startswith("layers/")

    @property
    def is_matrix(self) -> bool:
        """Whether it is a linear map of the layers: what Muon, weight decay and adapters are for."""
        return self.in_layers and bool(self.inputs)

    def is_in(self, config: ModelConfig) -> bool:
        """Whether a model has it."""
        flag = self.when.removeprefix("not ")
        return not flag or getattr(config, flag) != self.when.startswith("not ")

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Of the parameter, or of one layer of it."""
        return tuple(getattr(config, SIZES[axis]) for axis in self.inputs + self.outputs)

    def name(self, naming: Naming, layer: int = 0) -> str:
        """Its name in a file."""
        prefix = {"hf": f"model.layers.{layer}.", "gguf": f"blk.{layer}."}[naming] if self.in_layers else ""
        return prefix + (self.hf if naming == "hf" else self.gguf)

    @property
    def file_axes(self) -> tuple[tuple[int, ...], ...]:
        """For each axis of its tensor in a file, the parameter's own axes that are flattened into it.

        A linear map is a matrix [outputs, inputs] there; otherwise only heads and their entries are one axis.
        """
        first, total = len(self.inputs), len(self.inputs) + len(self.outputs)
        if first:
            return tuple(range(first, total)), tuple(range(first))
        starts = [n for n, axis in enumerate(self.outputs) if n == 0 or axis != "head_dim"]
        return tuple(tuple(range(*ends)) for ends in zip(starts, [*starts[1:], total], strict=True))

    def file_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """The shape of its tensor in a file."""
        shape = self.shape(config)
        return tuple(math.prod(shape[axis] for axis in group) for group in self.file_axes)


# In the order in which files have them.
TABLE: tuple[Parameter, ...] = (
    Parameter("embed", "vocab width", "model.embed_tokens.weight", "token_embd.weight"),
    Parameter("unembed", "width -> vocab", "lm_head.weight", "output.weight", when="not tied_embeddings"),
    Parameter("final_norm/scale", "norm", "model.norm.weight", "output_norm.weight", ones),
    Parameter("layers/attention_norm/scale", "norm", "input_layernorm.weight", "attn_norm.weight", ones),
    Parameter("layers/q/kernel", "width -> heads head_dim", "self_attn.q_proj.weight", "attn_q.weight", rope=True),
    Parameter("layers/k/kernel", "width -> kv_heads head_dim", "self_attn.k_proj.weight", "attn_k.weight", rope=True),
    Parameter("layers/v/kernel", "width -> kv_heads head_dim", "self_attn.v_proj.weight", "attn_v.weight"),
    Parameter("layers/o/kernel", "heads head_dim -> width", "self_attn.o_proj.weight", "attn_output.weight"),
    Parameter("layers/q_norm/scale", "head_dim", "self_attn.q_norm.weight", "attn_q_norm.weight", ones, "qk_norm"),
    Parameter("layers/k_norm/scale", "head_dim", "self_attn.k_norm.weight", "attn_k_norm.weight", ones, "qk_norm"),
    Parameter("layers/mlp_norm/scale", "norm", "post_attention_layernorm.weight", "ffn_norm.weight", ones),
    Parameter("layers/gate/kernel", "width -> mlp", "mlp.gate_proj.weight", "ffn_gate.weight"),
    Parameter("layers/up/kernel", "width -> mlp", "mlp.up_proj.weight", "ffn_up.weight"),
    Parameter("layers/down/kernel", "mlp -> width", "mlp.down_proj.weight", "ffn_down.weight"),
)
BY_PATH = {row.path: row for row in TABLE}


def rows(config: ModelConfig) -> list[Parameter]:
    """The parameters that a model has, without adapters."""
    return [row for row in TABLE if row.is_in(config)]


def path_name(path: Sequence[Any]) -> str:
    """A path of `jax.tree_util` as text: `layers/q/kernel`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def find(path: Sequence[Any]) -> Parameter | None:
    """The row of an array in a tree whose paths end as the parameters' do; None if there is none.

    Such trees are parameters, their gradients and an optimizer's moments; layers may be stacked or stand one by one
    (`layers/3/q/kernel`).
    """
    name = "/" + re.sub(r"\blayers/\d+/", "layers/", path_name(path))
    return next((row for row in TABLE if name.endswith(f"/{row.path}")), None)


def param_specs(tree: Any, mesh: Mesh | AbstractMesh, layout: Layout = TRAINING) -> Any:
    """The NamedSharding of every parameter, as a tree like `tree` (parameters, or their shapes).

    Works on any tree whose paths end as the parameters' do, see `find`. An array without a row, such as a step counter,
    is replicated if it is tiny. Raises ValueError, in one line, for a larger one, and for a dimension that its mesh
    axis doesn't divide.
    """

    def spec(path: Sequence[Any], leaf: Any) -> NamedSharding:
        name, row = path_name(path), find(path)
        axes: Axes | None = None if row is None else row.inputs + row.outputs
        if is_adapter(name):
            axes = None, None  # thin: splitting them saves less than gathering them costs
        if axes is None or leaf.ndim < len(axes):
            if leaf.size > MAX_REPLICATED:
                raise ValueError(f"parameter {name} {leaf.shape}: no row of the table in model/parameters.py names it")
            axes = ()
        return split_by((None,) * (leaf.ndim - len(axes)) + axes, leaf.shape, mesh, layout, f"parameter {name}")

    return jax.tree_util.tree_map_with_path(spec, tree)


def rollout_specs(tree: Any, mesh: Mesh) -> Any:
    """`param_specs` in the rollout layout: replicated over data and fsdp, split over tensor."""
    return param_specs(tree, mesh, ROLLOUT)


def divides(tree: Any, sizes: Sequence[int]) -> bool:
    """Whether a mesh of (data, fsdp, tensor) devices divides all dimensions over which the parameters are split."""
    try:
        param_specs(tree, AbstractMesh(tuple(sizes), AXES))
    except ValueError:
        return False
    return True
