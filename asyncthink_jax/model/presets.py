"""Sizes of known models, as keyword arguments: `ModelConfig(**QWEN3["0.6B"])`, `ModelConfig(vocab_size=V, **TINY)`."""

from typing import Any

# The demo model: 0.6 million parameters beside the embedding. Its vocabulary is the tokenizer's.
TINY: dict[str, Any] = {"layers": 3, "width": 128, "heads": 4, "kv_heads": 2, "head_dim": 32, "mlp_width": 384}


def _qwen3(layers: int, width: int, heads: int, mlp_width: int, tied_embeddings: bool) -> dict[str, Any]:
    return {
        "vocab_size": 151_936,
        "layers": layers,
        "width": width,
        "heads": heads,
        "kv_heads": 8,
        "head_dim": 128,
        "mlp_width": mlp_width,
        "tied_embeddings": tied_embeddings,
    }


# As in the `config.json` files of the released weights (dense models).
QWEN3: dict[str, dict[str, Any]] = {
    "0.6B": _qwen3(layers=28, width=1024, heads=16, mlp_width=3072, tied_embeddings=True),
    "1.7B": _qwen3(layers=28, width=2048, heads=16, mlp_width=6144, tied_embeddings=True),
    "4B": _qwen3(layers=36, width=2560, heads=32, mlp_width=9728, tied_embeddings=True),
    "8B": _qwen3(layers=36, width=4096, heads=32, mlp_width=12288, tied_embeddings=False),
    "14B": _qwen3(layers=40, width=5120, heads=40, mlp_width=17408, tied_embeddings=False),
    "32B": _qwen3(layers=64, width=5120, heads=64, mlp_width=25600, tied_embeddings=False),
}
