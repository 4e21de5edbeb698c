"""Log-probabilities in chunks are those of the whole, whatever the chunk."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.training.logprobs import OldLogprobs, token_logprobs

MODEL = ModelConfig(vocab_size=50, layers=1, width=16, heads=2, kv_heads=1, head_dim=8, mlp_width=16)
UNTIED = dataclasses.replace(MODEL, tied_embeddings=False)
ROWS, LENGTH, TEMPERATURE = 4, 10, 0.7
BATCH = {
    "tokens": np.random.default_rng(0).integers(0, 50, (ROWS, LENGTH), dtype=np.int32),
    "positions": np.tile(np.r_[np.arange(6), np.arange(4)].astype(np.int32), (ROWS, 1)),
    "segment_ids": np.tile(np.repeat([1, 2], [6, 4]).astype(np.int32), (ROWS, 1)),
}


def params_of(model):
    return jax.tree.map(lambda p: p * 5, transformer.init(model, jax.random.key(0)))


def whole(model, params):
    hidden = transformer.forward(model, params, *BATCH.values())
    logprobs = jax.nn.log_softmax(transformer.logits(model, params, hidden) / TEMPERATURE)[:, :-1]
    chosen = jnp.take_along_axis(logprobs, BATCH["tokens"][:, 1:, None], axis=-1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)


@pytest.mark.parametrize("model", [MODEL, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("chunk", [1, 12, 1000], ids=lambda chunk: f"chunks of {chunk}")
def test_any_chunk_gives_what_the_whole_logits_give(model, chunk):
    params = params_of(model)
    for got, expected in zip(
        token_logprobs(model, params, *BATCH.values(), temperature=TEMPERATURE, chunk=chunk),
        whole(model, params),
        strict=True,
    ):
        np.testing.assert_allclose(got[:, 1:], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [12, 1000])
def test_gradients_too(chunk):
    params, weights = params_of(MODEL), np.random.default_rng(1).random((ROWS, LENGTH - 1))

    def in_chunks(params):
        return jnp.sum(weights * token_logprobs(MODEL, params, *BATCH.values(), TEMPERATURE, chunk)[0][:, 1:])

    expected = jax.jit(jax.grad(lambda params: jnp.sum(weights * whole(MODEL, params)[0])))(params)
    got = jax.jit(jax.grad(in_chunks))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


def test_logits_never_exist_for_more_than_a_chunk():
    logprobs = jax.jit(lambda params: token_logprobs(MODEL, params, *BATCH.values(), chunk=12)[0])
    text = logprobs.lower(params_of(MODEL)).as_text()
    assert "4x3x50x" in text  # 3 places of 4 rows
    assert "4x10x50x" not in text and "40x50x" not in text


@pytest.mark.parametrize("microbatches", [1, 2])
def test_old_logprobs_are_computed_microbatch_by_microbatch(microbatches):
    params = params_of(MODEL)
    old = OldLogprobs(MODEL, TEMPERATURE, 1000, microbatches, make_mesh(devices=jax.devices()[:1]), {})
    np.testing.assert_allclose(old(params, BATCH)[:, 1:], whole(MODEL, params)[0], rtol=1e-5, atol=1e-5)
