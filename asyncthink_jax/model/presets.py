"""Sizes of released models by name, as in the `config.json` files of their weights: `PRESETS["Qwen3-0.6B"]`.

TINY is a model like the demo's with half of its key/value heads, for tests: `ModelConfig(vocab_size=V, **TINY)`.
"""

from typing import Any

from asyncthink_jax.model.model_config import ModelConfig, RopeScaling

TINY: dict[str, Any] = {"layers": 3, "width": 128, "heads": 4, "kv_heads": 2, "head_dim": 32, "mlp_width": 384}


def _qwen3(layers: int, width: int, heads: int, mlp_width: int, tied: bool) -> ModelConfig:
    return ModelConfig(
        vocab_size=151_936,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        mlp_width=mlp_width,
        tied_embeddings=tied,
    )


def _smollm2(layers: int, width: int, heads: int, kv_heads: int, mlp_width: int, theta: float) -> ModelConfig:
    return ModelConfig(
        vocab_size=49_152,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=64,
        mlp_width=mlp_width,
        rope_theta=theta,
        norm_eps=1e-5,
        qk_norm=False,
    )


def _llama3(
    layers: int, width: int, heads: int, head_dim: int, mlp_width: int, scale: float, tied: bool
) -> ModelConfig:
    return ModelConfig(
        vocab_size=128_256,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=8,
        head_dim=head_dim,
        mlp_width=mlp_width,
        rope_theta=5e5,
        rope_scaling=RopeScaling(factor=scale),
        norm_eps=1e-5,
        tied_embeddings=tied,
        qk_norm=False,
    )


PRESETS: dict[str, ModelConfig] = {
    "Qwen3-0.6B": _qwen3(layers=28, width=1024, heads=16, mlp_width=3072, tied=True),
    "Qwen3-1.7B": _qwen3(layers=28, width=2048, heads=16, mlp_width=6144, tied=True),
    "Qwen3-4B": _qwen3(layers=36, width=2560, heads=32, mlp_width=9728, tied=True),
    "Qwen3-8B": _qwen3(layers=36, width=4096, heads=32, mlp_width=12288, tied=False),
    "Qwen3-14B": _qwen3(layers=40, width=5120, heads=40, mlp_width=17408, tied=False),
    "Qwen3-32B": _qwen3(layers=64, width=5120, heads=64, mlp_width=25600, tied=False),
    "SmolLM2-135M": _smollm2(layers=30, width=576, heads=9, kv_heads=3, mlp_width=1536, theta=1e5),
    "SmolLM2-360M": _smollm2(layers=32, width=960, heads=15, kv_heads=5, mlp_width=2560, theta=1e5),
    "SmolLM2-1.7B": _smollm2(layers=24, width=2048, heads=32, kv_heads=32, mlp_width=8192, theta=1.3e5),
    "Llama-3.1-8B": _llama3(layers=32, width=4096, heads=32, head_dim=128, mlp_width=14336, scale=8, tied=False),
    "Llama-3.2-1B": _llama3(layers=16, width=2048, heads=32, head_dim=64, mlp_width=8192, scale=32, tied=True),
    "Llama-3.2-3B": _llama3(layers=28, width=3072, heads=24, head_dim=128, mlp_width=8192, scale=32, tied=True),
}
