"""The cold start's loss: the mean over what the roles write, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asyncthink_jax.config import SFTConfig
from asyncthink_jax.data import packing
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.training import sft

MODEL = ModelConfig(11, layers=1, width=8, heads=2, kv_heads=1, head_dim=4, mlp_width=8)
TRACES = [([1, 2, 3, 4, 5, 6], [0, 0, 1, 0, 0, 1]), ([7, 8, 9], [0, 1, 1]), ([1, 3], [0, 0])]


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(
        lambda x: x * 10 if x.ndim > 1 else x, jax.jit(transformer.init, static_argnums=0)(MODEL, jax.random.key(0))
    )


@pytest.fixture(scope="module")
def batch():
    rows = [{"tokens": np.array(t, np.int32), "loss_weights": np.array(w, np.float32)} for t, w in TRACES]
    return sft.normalised(packing.pack(rows, row_length=8, rows=3)[0])


@pytest.fixture(scope="module")
def loss_and_gradient():
    return jax.jit(jax.value_and_grad(sft.make_loss(MODEL, SFTConfig(loss_chunk=7)), has_aux=True))


def test_weights_of_a_step_add_up_to_1(batch):
    assert batch["loss_weights"].sum() == pytest.approx(1)
    assert set(np.unique(batch["loss_weights"])) == {0, np.float32(0.25)}
    nothing = sft.normalised({"loss_weights": np.zeros((2, 3), np.float32)})
    assert not nothing["loss_weights"].any()


def test_the_loss_is_the_mean_over_weighted_tokens_each_given_its_own_trace(params, batch, loss_and_gradient):
    @jax.jit
    def logprobs_of(row):
        hidden = transformer.forward(MODEL, params, row, jnp.arange(row.size)[None], jnp.ones_like(row))
        return jax.nn.log_softmax(transformer.logits(MODEL, params, hidden))[0]

    losses, entropies = [], []
    for tokens, weights in TRACES:
        logprobs = np.asarray(
            logprobs_of(jnp.array([tokens + [0] * (6 - len(tokens))]))
        )  # what comes later is not read
        for place in np.flatnonzero(weights):
            losses.append(-logprobs[place - 1, tokens[place]])
            entropies.append(-np.sum(np.exp(logprobs[place - 1]) * logprobs[place - 1]))
    (value, numbers), _ = loss_and_gradient(params, batch)
    assert len(losses) == 4
    assert float(value) == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert float(numbers["entropy"]) == pytest.approx(float(np.mean(entropies)), rel=1e-5)


def test_the_weights_of_a_batch_add_up_to_1_in_the_proportions_they_had():
    weights = np.array([[0, 1, 1], [0, 3, 0]], np.float32)
    np.testing.assert_allclose(sft.normalised({"loss_weights": weights})["loss_weights"], weights / 5)
    nothing = np.zeros((1, 2), np.float32)
    assert not sft.normalised({"loss_weights": nothing})["loss_weights"].any()


def test_tokens_without_weight_are_read_but_not_learned(params, batch, loss_and_gradient):
    # The last token of a trace is read by none: without weight its gradient is nothing, whichever token it is.
    _, gradient = loss_and_gradient(params, batch)
    last = (batch["segment_ids"] > 0) & (batch["tokens"] == 3) & (batch["positions"] == 1)
    assert np.count_nonzero(last) == 1
    _, other = loss_and_gradient(params, {**batch, "tokens": np.where(last, 10, batch["tokens"])})
    jax.tree.map(np.testing.assert_array_equal, gradient, other)
    joined = (batch["tokens"] == 5) & (batch["positions"] == 4)
    _, other = loss_and_gradient(params, {**batch, "tokens": np.where(joined, 10, batch["tokens"])})
    assert np.any(np.asarray(gradient["embed"]) != np.asarray(other["embed"]))


def test_padding_has_no_gradient(params, batch, loss_and_gradient):
    _, gradient = loss_and_gradient(params, batch)
    _, other = loss_and_gradient(params, {**batch, "tokens": np.where(batch["segment_ids"] == 0, 10, batch["tokens"])})
    jax.tree.map(np.testing.assert_array_equal, gradient, other)


class Words:
    """A tokenizer of a few pieces."""

    pieces = (b"", b" 13", b"14", b" +", b" 1a", "\u0664".encode(), b" 99")
    vocab_size = len(pieces)

    def token_bytes(self, token):
        return self.pieces[token]


def test_number_features_change_the_embeddings_of_numbers_alone():
    params = {"embed": jax.random.normal(jax.random.key(0), (7, 64)), "final_norm": {"scale": jnp.ones(64)}}
    featured = sft.with_number_features(params, Words(), jax.random.key(1))
    changed = np.any(np.asarray(featured["embed"]) != np.asarray(params["embed"]), axis=1)
    assert changed.tolist() == [False, True, True, False, False, False, True]
    np.testing.assert_array_equal(featured["final_norm"]["scale"], params["final_norm"]["scale"])
    thirteen, fourteen, far = (np.asarray(featured["embed"])[n, :48] for n in (1, 2, 6))
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    assert cosine(thirteen, fourteen) > cosine(thirteen, far) + 0.1
    assert np.sqrt(np.mean(thirteen**2)) == pytest.approx(1.0, abs=0.1)  # the scale of the noise
