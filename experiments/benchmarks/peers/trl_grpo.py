"""TRL: GRPO iterations of a Qwen3 with random weights, sampling by transformers' `generate`.

The first request also has `prompts` (each decoded `group` times), `group`, `prompt` and `new`. Work: {}, one iteration:
sampling, rewards, one optimizer step. The trainer runs its own loop; it waits for a request at the start of each step.
"""

import tempfile

import numpy as np
import torch
import trl
from datasets import Dataset
from serve import Clock, requests
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from transformers_generate import qwen3
from trl import GRPOConfig, GRPOTrainer


def tokenizer(vocab_size):
    """One token a word."""
    words = {"<pad>": 0, "<end>": 1} | {f"w{n}": n for n in range(2, vocab_size)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", padding_side="left")


class OnRequest(TrainerCallback):
    """A step for each request."""

    def __init__(self, work):
        self.work = work

    def on_step_begin(self, args, state, control, **_):
        request = next(self.work, None)
        if request is None:
            raise SystemExit(0)
        self.answer, self.clock = request[1], Clock()

    def on_step_end(self, args, state, control, **_):
        self.answer(self.clock.time())


def main():
    work = requests()
    first, answer = next(work)
    sizes, gpu = first["model"], first["platform"] == "gpu"
    model = qwen3(sizes, "cuda" if gpu else "cpu")
    rng = np.random.default_rng(0)
    prompts = [" ".join(f"w{n}" for n in rng.integers(2, sizes["vocab_size"], first["prompt"])) for _ in range(64)]
    rows = first["prompts"] * first["group"]
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=not gpu,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        num_generations=first["group"],
        max_completion_length=first["new"],
        temperature=1.0,
        beta=0.0,
        learning_rate=1e-6,
        max_steps=10_000,
        generation_kwargs={"min_new_tokens": first["new"], "top_k": 0},
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: rng.random(len(completions)).tolist(),
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer(sizes["vocab_size"]),
        callbacks=[OnRequest(work)],
    )
    answer({"version": trl.__version__, "parameters": sum(p.numel() for p in model.parameters())})
    assert next(model.parameters()).dtype == torch.float32
    trainer.train()


if __name__ == "__main__":
    main()
