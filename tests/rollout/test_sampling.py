"""Sampling: the right distribution, one random number a token, and no token that the model gives no probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asyncthink_jax.rollout import sampling

sample, token_uniforms = jax.jit(sampling.sample), jax.jit(sampling.token_uniforms)

LOGITS = jnp.log(jnp.array([0.5, 0.3, 0.0, 0.2]))


@pytest.mark.parametrize(("temperature", "shares"), [(1.0, [0.5, 0.3, 0.0, 0.2]), (0.5, [25 / 38, 9 / 38, 0, 4 / 38])])
def test_tokens_come_as_often_as_the_model_says(temperature, shares):
    uniforms = (jnp.arange(10_000) + 0.5) / 10_000
    tokens, logprobs = sample(jnp.tile(LOGITS, (10_000, 1)), uniforms, jnp.float32(temperature))
    np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 10_000, shares, atol=1e-3)
    np.testing.assert_allclose(logprobs, np.log(np.array(shares)[tokens]), rtol=1e-5)


def test_a_token_without_probability_is_never_drawn():
    # At the edges of the unit interval too, and where it is the first or the last of the vocabulary.
    for shares in ([0.0, 1.0, 0.0], [0.0, 0.4, 0.6], [0.6, 0.4, 0.0], [0.3, 0.0, 0.7]):
        uniforms = jnp.array([0.0, 1e-7, 0.3, 0.4, 0.6, np.nextafter(np.float32(1), np.float32(0))])
        tokens, _ = sample(jnp.tile(jnp.log(jnp.array(shares)), (6, 1)), uniforms, jnp.float32(1))
        assert np.all(np.array(shares)[tokens] > 0), (shares, tokens)


def test_temperature_0_takes_the_likeliest_token_and_its_log_probability_at_1():
    tokens, logprobs = sample(jnp.tile(LOGITS, (2, 1)), jnp.array([0.0, 0.99]), jnp.float32(0))
    assert tokens.tolist() == [0, 0]
    np.testing.assert_allclose(logprobs, np.log(0.5), rtol=1e-6)


def test_a_random_number_belongs_to_its_episode_trace_and_position():
    key = jax.random.key(3)
    places = jnp.array([[e, t, p] for e in range(10) for t in range(4) for p in range(25)]).T
    uniforms = token_uniforms(key, *places)
    assert len(np.unique(uniforms)) > 990  # 1,000 numbers of 24 bits
    assert uniforms.min() >= 0 and uniforms.max() < 1 and abs(uniforms.mean() - 0.5) < 0.03
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(token_uniforms(key, *places[:, order]), uniforms[order])
    assert np.mean(token_uniforms(jax.random.key(4), *places) == uniforms) < 0.01
