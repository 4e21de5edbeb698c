"""The TPU's attention kernel, run in plain JAX, against the one that every platform can run."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asyncthink_jax.model import attention

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


def inputs(length, rows=2):
    rng = np.random.default_rng(length)
    draw = lambda heads: rng.standard_normal((rows, length, heads, HEAD_DIM), dtype=np.float32)  # noqa: E731
    cuts = np.sort(rng.integers(1, length, (rows, 2)), axis=1)  # three segments a row, the last one padding
    place = np.arange(length)
    segments = np.where(place < cuts[:, :1], 1, np.where(place < cuts[:, 1:], 2, 0)).astype(np.int32)
    return draw(HEADS), draw(KV_HEADS), draw(KV_HEADS), segments


def flash(q, k, v, segments):
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return attention.flash(q, k, v, segments, interpret=True).swapaxes(1, 2)


@pytest.mark.parametrize("length", [128, 100, 300])
def test_flash_attention_is_attention_within_segments(length):
    q, k, v, segments = inputs(length)
    real = segments[..., None, None] > 0
    expected = attention.packed(q, k, v, segments)
    np.testing.assert_allclose(flash(q, k, v, segments) * real, expected * real, atol=2e-5)


def test_flash_attention_has_the_same_gradients():
    q, k, v, segments = inputs(200)
    weights = np.random.default_rng(0).standard_normal(q.shape, dtype=np.float32) * (segments[..., None, None] > 0)
    gradient = lambda f: jax.grad(lambda *x: jnp.sum(weights * f(*x, segments)), argnums=(0, 1, 2))(q, k, v)  # noqa: E731
    for got, expected in zip(gradient(flash), gradient(attention.packed), strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-5)


@pytest.mark.parametrize(("capability", "fused"), [("7.5", False), ("8.0", True), ("10.0", True), ("gfx942", False)])
def test_only_gpus_that_have_fused_attention_use_it(monkeypatch, capability, fused):
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(attention.jax, "local_devices", lambda backend: [device])
    assert attention._has_fused_attention() is fused
