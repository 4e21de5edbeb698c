"""transformers: a Qwen3 with random weights and `generate` with its dynamic cache, sampling at temperature 1.

Work: {"lengths": tokens of each row's prompt, "new": tokens that every row decodes}. Prompts are padded on the left.
`generate` computes rows that end earlier with padding until the last one ends. So each call has one number of new
tokens, and not one for each row.
"""

import torch
import transformers
from serve import requests, timed
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM


def qwen3(sizes, device):
    """The model of `sizes` (the fields of our ModelConfig)."""
    config = Qwen3Config(
        vocab_size=sizes["vocab_size"],
        num_hidden_layers=sizes["layers"],
        hidden_size=sizes["width"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        intermediate_size=sizes["mlp_width"],
        rms_norm_eps=sizes["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": sizes["rope_theta"]},
        tie_word_embeddings=sizes["tied_embeddings"],
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).to(device, torch.float32)


def main():
    work = requests()
    first, answer = next(work)
    device = "cuda" if first["platform"] == "gpu" else "cpu"
    model = qwen3(first["model"], device).eval()
    answer({"version": transformers.__version__, "parameters": sum(p.numel() for p in model.parameters())})
    for request, answer in work:
        lengths, new = torch.tensor(request["lengths"]), request["new"]
        longest = int(lengths.max())
        mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
        tokens = torch.randint(1, first["model"]["vocab_size"], mask.shape) * mask
        mask, tokens = mask.to(device), tokens.to(device)
        settings = GenerationConfig(max_new_tokens=new, do_sample=True, top_k=0, top_p=1.0, pad_token_id=0)

        def generate(mask=mask, tokens=tokens, settings=settings):
            with torch.inference_mode():
                out = model.generate(tokens, attention_mask=mask, generation_config=settings).cpu()
            assert out.shape[1] == tokens.shape[1] + settings.max_new_tokens

        answer(timed(generate))


if __name__ == "__main__":
    main()
