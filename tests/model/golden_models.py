"""The golden models that `make_golden.py` made, and our logits for their prompts."""

import pathlib

import jax
import numpy as np

from asyncthink_jax.model import transformer

GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = ("qwen3_tied", "qwen3_untied", "llama3")

forward = jax.jit(transformer.forward, static_argnums=0)
decode = jax.jit(transformer.decode, static_argnums=0)


def expected(name):
    """The prompts, and transformers' logits for each."""
    arrays = np.load(GOLDEN / name / "logits.npz")
    count = len(arrays.files) // 2
    return [arrays[f"tokens_{n}"] for n in range(count)], [arrays[f"logits_{n}"] for n in range(count)]


def padded(config, params, prompts):
    """Logits with each prompt in a row of its own, padded to the longest."""
    length = max(map(len, prompts))
    tokens, segments = np.zeros((2, len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], segments[row, : len(prompt)] = prompt, 1
    positions = np.broadcast_to(np.arange(length), tokens.shape)
    logits = transformer.logits(config, params, forward(config, params, tokens, positions, segments))
    return [np.asarray(logits[row, : len(prompt)]) for row, prompt in enumerate(prompts)]


def packed(config, params, prompts):
    """Logits with all prompts in one row, told apart by segment ids."""
    lengths = [len(prompt) for prompt in prompts]
    tokens, positions = np.concatenate(prompts)[None], np.concatenate([np.arange(n) for n in lengths])[None]
    segments = np.repeat(np.arange(1, len(prompts) + 1), lengths)[None]
    logits = transformer.logits(config, params, forward(config, params, tokens, positions, segments))
    return np.split(np.asarray(logits[0]), np.cumsum(lengths)[:-1])


def cached(config, params, prompts, width=5):
    """Logits by `decode`, up to `width` tokens a call."""
    length = -(-max(map(len, prompts)) // width) * width
    tokens, positions = np.zeros((len(prompts), length), np.int32), np.full((len(prompts), length), -1, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], positions[row, : len(prompt)] = prompt, np.arange(len(prompt))
    caches, hidden = (transformer.init_cache(config, len(prompts), length),), []
    for start in range(0, length, width):
        now = slice(start, start + width)
        output, caches = decode(config, params, caches, tokens[:, now], positions[:, now])
        hidden.append(output)
    logits = transformer.logits(config, params, np.concatenate(hidden, axis=1))
    return [np.asarray(logits[row, : len(prompt)]) for row, prompt in enumerate(prompts)]
