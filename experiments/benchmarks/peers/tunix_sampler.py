"""google-tunix: its Qwen3 with random weights and its vanilla `Sampler`, sampling at temperature 1.

Work: {"prompt": tokens of every prompt, "lengths": tokens that each row decodes, "cap": most of them}, optionally
"rows" a batch. A row's length is forced inside the model: it may choose the end-of-text token at no place but its last,
and there nothing else.
"""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from serve import requests, timed
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.qwen3 import model as qwen3


class Tokenizer:
    """Text is token ids with spaces between them; nothing is spent on decoding."""

    def __init__(self, vocab_size):
        self.end = vocab_size - 1

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return ""

    def bos_id(self):
        return 0  # none is put in front of a prompt

    def pad_id(self):
        return 0

    def eos_id(self):
        return self.end


class Lengths(nnx.Variable):
    """The number of tokens that each row decodes."""


class ForcedLengths(qwen3.Qwen3):
    """A Qwen3 whose rows end where `lengths` says."""

    def __init__(self, config, rows, prompt):
        super().__init__(config, rngs=nnx.Rngs(0))
        self.lengths, self.prompt = Lengths(jnp.zeros((rows,), jnp.int32)), prompt

    def __call__(self, tokens, positions, cache, attention_mask, **settings):
        logits, cache = super().__call__(tokens, positions, cache, attention_mask, **settings)
        last = positions[:, -1] == self.prompt + self.lengths[...] - 2
        end = jnp.where(last, 1e9, -1e9)
        return logits.at[:, -1, -1].add(end), cache


def model_config(sizes):
    """Their config of `sizes` (the fields of our ModelConfig)."""
    return qwen3.ModelConfig(
        num_layers=sizes["layers"],
        vocab_size=sizes["vocab_size"],
        embed_dim=sizes["width"],
        hidden_dim=sizes["mlp_width"],
        num_heads=sizes["heads"],
        head_dim=sizes["head_dim"],
        num_kv_heads=sizes["kv_heads"],
        rope_theta=int(sizes["rope_theta"]),
        norm_eps=sizes["norm_eps"],
        use_tied_embedding=sizes["tied_embeddings"],
    )


class Batches:
    """One batch size, prompt and cap: a model and its sampler, compiled once."""

    def __init__(self, sizes, rows, prompt, cap):
        self.prompt, self.cap = prompt, cap
        self.model = ForcedLengths(model_config(sizes), rows, prompt)
        cache = CacheConfig(prompt + cap, sizes["layers"], sizes["kv_heads"], sizes["head_dim"])
        self.sampler = Sampler(self.model, Tokenizer(sizes["vocab_size"]), cache)
        tokens = np.random.default_rng(0).integers(1, sizes["vocab_size"] - 1, (rows, prompt))
        self.prompts = [" ".join(map(str, row)) for row in tokens]

    def __call__(self, lengths):
        self.model.lengths[...] = jnp.asarray(lengths, jnp.int32)
        self.sampler.transformer_state = nnx.variables(self.model)
        out = self.sampler(
            self.prompts,
            max_generation_steps=self.cap,
            max_prompt_length=self.prompt,
            temperature=1.0,
            top_p=1.0,
        )
        # The end-of-text token, which belongs to a row's length, is cut off.
        assert [len(row) + 1 for row in out.tokens] == list(lengths), "forced lengths"


def main():
    work = requests()
    first, answer = next(work)
    built = {}
    parameters = nnx.state(ForcedLengths(model_config(first["model"]), 1, 1), nnx.Param)
    count = sum(x.size for x in jax.tree.leaves(parameters))
    answer({"version": importlib.metadata.version("google-tunix"), "parameters": count})
    for request, answer in work:
        rows = request.get("rows", len(request["lengths"]))
        lengths = request["lengths"]
        key = (rows, request["prompt"], request["cap"])
        if key not in built:
            built[key] = Batches(first["model"], *key)
        batches = [lengths[n : n + rows] for n in range(0, len(lengths), rows)]
        answer(timed(lambda run=built[key], batches=batches: [run(batch) for batch in batches]))


if __name__ == "__main__":
    main()
