"""The sizes of a model, as a section of the config. No JAX: a config is read, and refused, without it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Slower rotation for longer texts than a model was first trained on ("llama3", of Llama 3.1 and later).

    Frequencies whose wavelength is above `original_context` / `low_frequency_factor` tokens are divided by `factor`,
    those below `original_context` / `high_frequency_factor` stay, and those between are mixed.
    """

    factor: float = 1.0  # 1 = none
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192  # tokens


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Adapters of all matrices of the layers: attention and feed-forward."""

    rank: int = 0  # 0 = none: the whole model is trained
    alpha: float = 16.0  # the adapters' product counts alpha / rank times


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; what is not a size is the same for every Qwen3 and Llama model."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    rope_theta: float = 1e6
    rope_scaling: RopeScaling = RopeScaling()
    norm_eps: float = 1e-6
    tied_embeddings: bool = True
    qk_norm: bool = True  # Qwen3 has it, Llama has not
    dtype: str = "float32"  # of activations and cache; parameters are kept in fp32
    remat: str = "none"  # what training recomputes: "none", "full" (all but layer inputs), "dots" (all but matmuls)
    lora: LoRA = LoRA()  # adapters that alone are trained
