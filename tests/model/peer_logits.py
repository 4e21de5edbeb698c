"""Logits by transformers, for the slow tests: run in the peers' environment, imports nothing of ours.

    .venv-peers/bin/python tests/model/peer_logits.py FOLDER PROMPTS.npz LOGITS.npz

Opens the model in FOLDER in fp32, and writes its logits for each of the arrays of tokens.
"""

import sys

import numpy as np
import torch
import transformers


@torch.no_grad()
def main() -> None:
    folder, prompts, target = sys.argv[1:]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rope = model.config.rope_parameters
    print(type(model).__name__, rope["rope_type"], rope["rope_theta"], model.generation_config.eos_token_id)
    arrays = np.load(prompts)
    np.savez(target, **{name: model(torch.tensor(arrays[name])[None]).logits[0].numpy() for name in arrays.files})


if __name__ == "__main__":
    main()
