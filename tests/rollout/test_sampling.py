"""Sampling: the right distribution, one random number a token, and no token that the model gives no probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncthink_jax.rollout import sampling
from asyncthink_jax.rollout.sampling import Sampling

token_uniforms = jax.jit(sampling.token_uniforms)
sample_with = jax.jit(sampling.sample, static_argnums=3)

LOGITS = jnp.log(jnp.array([0.5, 0.3, 0.0, 0.2]))


def sample(logits, uniforms, temperature):
    """Tokens, and their log-probabilities in the distribution that they were drawn from."""
    return sample_with(logits, uniforms, temperature, Sampling())[:2]


@pytest.mark.parametrize(("temperature", "shares"), [(1.0, [0.5, 0.3, 0.0, 0.2]), (0.5, [25 / 38, 9 / 38, 0, 4 / 38])])
def test_tokens_come_as_often_as_the_model_says(temperature, shares):
    uniforms = (jnp.arange(10_000) + 0.5) / 10_000
    tokens, logprobs = sample(jnp.tile(LOGITS, (10_000, 1)), uniforms, jnp.float32(temperature))
    np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 10_000, shares, atol=1e-3)
    np.testing.assert_allclose(logprobs, np.log(np.array(shares)[tokens]), rtol=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 17, 1003])
def test_tokens_of_any_vocabulary_come_in_its_order_and_as_often_as_the_model_says(vocabulary):
    n = 5_000
    weights = np.random.default_rng(vocabulary).exponential(size=vocabulary)
    weights[1::5] = 0
    shares = weights / weights.sum()
    logits = jnp.broadcast_to(jnp.log(jnp.array(shares, jnp.float32)), (n, vocabulary))
    tokens, _ = sample(logits, (jnp.arange(n) + 0.5) / n, jnp.float32(1))
    assert np.all(np.diff(tokens) >= 0)
    np.testing.assert_allclose(np.bincount(tokens, minlength=vocabulary), n * shares, atol=1.1)


def test_a_token_without_probability_is_never_drawn():
    # At the edges of the unit interval too, and where it is the first or the last of the vocabulary.
    for shares in ([0.0, 1.0, 0.0], [0.0, 0.4, 0.6], [0.6, 0.4, 0.0], [0.3, 0.0, 0.7]):
        uniforms = jnp.array([0.0, 1e-7, 0.3, 0.4, 0.6, np.nextafter(np.float32(1), np.float32(0))])
        tokens, _ = sample(jnp.tile(jnp.log(jnp.array(shares)), (6, 1)), uniforms, jnp.float32(1))
        assert np.all(np.array(shares)[tokens] > 0), (shares, tokens)


def test_whatever_a_long_sum_rounds_to_what_is_chosen_has_mass():
    rng = np.random.default_rng(0)
    masses = rng.exponential(size=(64, 512)).astype(np.float32) * (rng.random((64, 512)) < 0.3)
    sums = np.asarray(jnp.cumsum(masses, axis=-1))
    assert np.any(np.diff(sums)[masses[:, 1:] == 0])  # it does move where there is nothing to add
    chosen_of = jax.jit(jax.vmap(sampling._first_beyond, in_axes=(None, 1)))
    for levels in (sums, np.nextafter(sums, np.float32(0)), np.nextafter(sums, np.float32(1e9))):
        chosen, _ = chosen_of(masses, jnp.array(levels))  # [level, row]
        assert np.all(masses[np.arange(64), chosen] > 0)


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


# --- Options that leave tokens out.


def drawn_from(shares, temperature=1.0, n=10_000, **options):
    """The share of each token among n draws, and the log-probabilities that come with them."""
    uniforms = (jnp.arange(n) + 0.5) / n
    tokens, logprobs = sample_with(
        jnp.tile(jnp.log(jnp.array(shares)), (n, 1)), uniforms, jnp.float32(temperature), Sampling(**options)
    )
    return np.bincount(tokens, minlength=len(shares)) / n, tokens, logprobs


SHARES = [0.1, 0.4, 0.05, 0.25, 0.2]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.84}, [1, 3, 4]),
        ({"top_p": 0.86}, [0, 1, 3, 4]),
        ({"min_p": 0.6}, [1, 3]),
        ({"min_p": 0.24}, [0, 1, 3, 4]),
        ({"min_p": 1.0}, [1]),
        # One after the other: of the two that top-k leaves the first alone has 0.4 / 0.65 of the probability.
        ({"top_k": 2, "top_p": 0.6}, [1]),
        ({"top_k": 4, "min_p": 0.6}, [1, 3]),
        ({"top_p": 0.99, "min_p": 0.4}, [1, 3, 4]),
    ],
)
def test_tokens_come_from_what_the_options_leave_as_often_as_among_them(options, left):
    shares, tokens, logprobs = drawn_from(SHARES, **options)
    expected = np.array([share if token in left else 0.0 for token, share in enumerate(SHARES)])
    expected /= expected.sum()
    np.testing.assert_allclose(shares, expected, atol=1e-3)
    np.testing.assert_allclose(logprobs, np.log(expected[tokens]), rtol=1e-4, atol=1e-6)


def test_the_temperature_acts_before_the_options():
    # At temperature 0.5 the likeliest has 16/31.4 of the probability, at 1 it has 0.4.
    assert np.count_nonzero(drawn_from(SHARES, temperature=1.0, top_p=0.5)[0]) == 2
    assert np.count_nonzero(drawn_from(SHARES, temperature=0.5, top_p=0.5)[0]) == 1


def test_tokens_as_likely_as_the_last_that_is_left_are_left_too():
    shares, *_ = drawn_from([0.3, 0.3, 0.2, 0.2], top_k=1)
    np.testing.assert_allclose(shares, [0.5, 0.5, 0, 0], atol=1e-3)


@settings(max_examples=40)
@given(
    # XLA takes subnormal numbers for 0: no likelier than those that are.
    st.lists(st.floats(-20, 20, width=32, allow_subnormal=False), min_size=7, max_size=7),
    st.sampled_from(
        [
            Sampling(top_k=1),
            Sampling(top_k=7),
            Sampling(top_p=0.001),
            Sampling(min_p=1.0),
            Sampling(top_k=3, top_p=0.9, min_p=0.05),
        ]
    ),
    st.sampled_from([0.0, 0.7, 1.0, 2.0]),
)
def test_the_likeliest_token_is_always_left_and_no_number_is_lost(logits, options, temperature):
    uniforms = jnp.linspace(0, np.nextafter(np.float32(1), np.float32(0)), 50)
    tokens, logprobs = sample_with(
        jnp.tile(jnp.array(logits, jnp.float32), (50, 1)), uniforms, jnp.float32(temperature), options
    )
    assert max(logits) == logits[tokens[0]] or temperature > 0
    assert np.all(np.isfinite(logprobs))
    if options.top_k == 1 or options.top_p == 0.001 or options.min_p == 1 or temperature == 0:
        assert set(np.array(logits)[tokens].tolist()) == {max(logits)}


def test_a_token_that_is_not_allowed_is_never_drawn():
    allowed = jnp.array([True, False, True, False, True])
    for temperature in (0.0, 1.0):
        for options in (Sampling(), Sampling(top_k=1, top_p=0.3, min_p=1.0)):
            tokens, logprobs = sample_with(
                jnp.tile(jnp.log(jnp.array(SHARES)), (100, 1)),
                jnp.arange(100) / 100,
                jnp.float32(temperature),
                options,
                jnp.tile(allowed, (100, 1)),
            )
            assert np.all(allowed[tokens])
            among = np.where(allowed, SHARES, 0) / np.sum(np.where(allowed, SHARES, 0))
            if options == Sampling() and temperature:
                np.testing.assert_allclose(logprobs, np.log(among[tokens]), rtol=1e-5)
            else:  # the likeliest of the allowed ones alone
                assert set(tokens.tolist()) == {4}


def test_the_repetition_penalty_is_on_what_the_trace_has_decoded_itself():
    logits = jnp.tile(jnp.array([2.0, 1.9, -1.0, -1.5, 0.0]), (3, 1))
    known = jnp.array([[0, 2], [0, 2], [4, 4]])
    decoded = jnp.array([[True, True], [False, False], [True, True]])
    tokens, logprobs = sample_with(
        logits, jnp.zeros(3), jnp.float32(0), Sampling(repetition_penalty=2.0), None, (known, decoded)
    )
    assert tokens.tolist() == [1, 0, 0]
    plain = np.array(jax.nn.log_softmax(logits[0]))
    np.testing.assert_allclose(logprobs[0], jax.nn.log_softmax(jnp.array([1.0, 1.9, -2.0, -1.5, 0.0]))[1], rtol=1e-5)
    np.testing.assert_allclose(logprobs[1:], plain[0], rtol=1e-5)


def test_with_everything_off_nothing_is_sorted():
    arguments = (jnp.zeros((2, 5)), jnp.zeros(2), jnp.float32(1))
    off = str(jax.make_jaxpr(lambda *x: sampling.sample(*x, Sampling()))(*arguments))
    top_k = str(jax.make_jaxpr(lambda *x: sampling.sample(*x, Sampling(top_k=2)))(*arguments))
    top_p = str(jax.make_jaxpr(lambda *x: sampling.sample(*x, Sampling(top_p=0.9)))(*arguments))
    assert " sort[" in top_p and " sort[" not in top_k + off
    assert " top_k[" in top_k and " top_k[" not in off
