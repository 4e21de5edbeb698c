"""Makes the golden files of these tests with torch and transformers, in the peers' environment:

    make bench-peers
    .venv-peers/bin/python tests/model/make_golden.py

Small random models, saved by transformers as they are published, with its fp32 logits. Imports nothing of ours.
"""

import pathlib

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent / "golden"
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Wavelengths from 6 to 1100 tokens: one frequency stays, one is mixed, two are divided.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 60,
}
PROMPTS = (3, 11, 29)  # tokens


def models():
    """Name and model of each golden folder."""
    qwen = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rms_norm_eps": 1e-6}
    for tied in (True, False):
        config = transformers.Qwen3Config(**SIZES, **qwen, tie_word_embeddings=tied)
        yield "qwen3_tied" if tied else "qwen3_untied", transformers.Qwen3ForCausalLM(config)
    config = transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3, rms_norm_eps=1e-5, tie_word_embeddings=False)
    yield "llama3", transformers.LlamaForCausalLM(config)


def main() -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    prompts = [generator.integers(0, SIZES["vocab_size"], length) for length in PROMPTS]
    for name, model in models():
        with torch.no_grad():
            for parameter in model.parameters():  # no norm is the identity, and attention is far from even
                parameter.copy_(parameter * 6 if parameter.ndim > 1 else 1 + 0.3 * torch.randn_like(parameter))
            arrays = {}
            for number, prompt in enumerate(prompts):
                arrays[f"tokens_{number}"] = prompt.astype(np.int32)
                arrays[f"logits_{number}"] = model(torch.tensor(prompt)[None]).logits[0].numpy()
        model.save_pretrained(FOLDER / name)
        np.savez_compressed(FOLDER / name / "logits.npz", **arrays)


if __name__ == "__main__":
    main()
