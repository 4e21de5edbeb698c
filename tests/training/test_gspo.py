"""GSPO (arXiv:2507.18071): one probability ratio for each trace, against the published formula, without packing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_grpo import CLIP, MODEL, SIZES, bandit, episode, trace, updated

from asyncthink_jax.config import RLConfig
from asyncthink_jax.data import packing
from asyncthink_jax.model import transformer
from asyncthink_jax.training import grpo

CONFIG = RLConfig(**(CLIP | SIZES | {"ratio": "trace", "aggregation": "trace-mean"}))
# The model has log-probabilities of around -log 12 = -2.5. With these old ones, traces fall on every side of the clip.
EPISODES = [
    episode(
        traces=[
            trace([9, 9], [1, 2, 3, 4, 5], joined=(2, 3), logprobs=[-2.3, -2.6, 0, 0, -2.5]),
            trace([8], [6, 7, 2], role="worker", logprobs=[-4.5, -2.6, -3.0]),
            trace([8, 3], [4], role="worker", logprobs=-1.1),
        ]
    ),
    episode(traces=[trace([9], [7, 1], logprobs=[-2.0, -3.1]), trace([8], [2, 2, 5], role="worker", logprobs=-3.9)]),
    episode(traces=[trace([9], [4, 4], logprobs=[-1.5, -1.0])]),
]
ADVANTAGES = [1.5, -0.7, -1.0]


@pytest.fixture(scope="module")
def params():
    return jax.jit(transformer.init, static_argnums=0)(MODEL, jax.random.key(1))


def published(weights):
    """- mean over traces of min(s A, clip(s) A), s = (p(y) / p_old(y)) ** (1 / |y|), and the share that is clipped."""
    gains, is_clipped = [], []
    for one, advantage in zip(EPISODES, ADVANTAGES, strict=True):
        for y in one.traces:
            tokens = np.concatenate([y.prompt, y.tokens])
            positions = jnp.arange(len(tokens))[None]
            hidden = transformer.forward(MODEL, weights, tokens[None], positions, jnp.ones_like(positions))
            logits = transformer.logits(MODEL, weights, hidden)[0, len(y.prompt) - 1 : -1]
            now = jax.nn.log_softmax(logits)[np.arange(len(y.tokens)), y.tokens][y.sampled]
            s = (jnp.exp(jnp.sum(now)) / np.exp(np.sum(y.logprobs[y.sampled]))) ** (1 / len(now))
            gains.append(jnp.minimum(s * advantage, jnp.clip(s, 0.8, 1.28) * advantage))
            is_clipped.append(s * advantage > jnp.clip(s, 0.8, 1.28) * advantage)
    return -jnp.mean(jnp.stack(gains)), jnp.stack(is_clipped)


def test_loss_and_gradient_are_those_of_the_published_formula(params):
    rows = grpo.training_rows(CONFIG, EPISODES, ADVANTAGES, np.random.default_rng(0))
    batch = grpo.step_weights(CONFIG, packing.pack(rows, SIZES["row_length"], 2)[0])
    assert batch["segment_ids"].max() > 1, "traces share a row"
    loss = jax.jit(jax.value_and_grad(grpo.make_loss(MODEL, CONFIG), has_aux=True))
    (value, numbers), gradient = loss(params, batch)
    (expected, is_clipped), of_formula = jax.jit(jax.value_and_grad(published, has_aux=True))(params)
    assert set(is_clipped.tolist()) == {True, False}
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(numbers["clipped"]) == pytest.approx(float(np.mean(is_clipped)), rel=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_formula))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest), gradient, of_formula)


def test_microbatches_do_not_change_the_ratio_of_a_trace(params):
    # 24 tokens in rows of 8: three of the four rows, and one and a half of the two microbatches.
    fields = {"ratio": "trace", "rows": 4, "row_length": 8}
    _, _, whole = updated(params, [0.0, 1.0, 1.0, 0.0], **fields)
    _, _, parts = updated(params, [0.0, 1.0, 1.0, 0.0], microbatches=2, **fields)
    for name in ("loss", "clipped", "gradient_norm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4), name
    assert 0 < whole["clipped"] < 1 and whole["rows"] == parts["rows"] == 3


def test_what_is_rewarded_becomes_likelier_and_what_is_punished_less(params):
    fields = {"ratio": "trace", "optimizer_steps": 2, "recompute_logprobs": True}
    first, *_, last = bandit(params, {1: 1.0, 2: -1.0}, then=(3, 4), **fields)
    assert last[1] > 3 * first[1] and last[2] < first[2] / 3
