"""The one jitted step of both stages: microbatches add up, unused ones cost nothing and change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asyncthink_jax.config import SFTConfig
from asyncthink_jax.model import transformer
from asyncthink_jax.model.transformer import ModelConfig
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.training import sft
from asyncthink_jax.training.state import OptimizerStep, new_state

MODEL = ModelConfig(11, layers=1, width=8, heads=2, kv_heads=1, head_dim=4, mlp_width=8)
MESH = make_mesh(devices=jax.devices()[:1])
OPTIMIZER = optax.sgd(1.0)  # an update is the gradient itself


@functools.cache
def step_of(microbatches):
    return OptimizerStep(sft.make_loss(MODEL, SFTConfig(loss_chunk=64)), OPTIMIZER, MESH, microbatches)


@functools.cache
def first_state():
    return new_state(jax.jit(transformer.init, static_argnums=0)(MODEL, jax.random.key(0)), OPTIMIZER, MESH)


def fresh_state():
    return jax.tree.map(jnp.copy, first_state())  # a step gives its state away


def batch(rows=8, filled=8):
    rng = np.random.default_rng(0)
    real = np.arange(rows)[:, None] < filled
    weights = rng.random((rows, 6)) * (np.arange(6) > 0) * real
    return {
        "tokens": rng.integers(1, 11, (rows, 6)).astype(np.int32) * real,
        "positions": np.tile(np.arange(6, dtype=np.int32), (rows, 1)) * real,
        "segment_ids": np.ones((rows, 6), np.int32) * real,
        "loss_weights": (weights / weights.sum()).astype(np.float32),
    }


def assert_close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), left, right)


def test_microbatches_make_the_same_update():
    whole, numbers = step_of(1)(fresh_state(), batch())
    parts, numbers_of_parts = step_of(4)(fresh_state(), batch())
    assert_close(parts.params, whole.params)
    assert_close(numbers_of_parts, numbers)
    assert numbers.keys() == {"loss", "entropy", "gradient_norm"}
    gradient = jax.tree.map(lambda a, b: a - b, fresh_state().params, whole.params)
    assert float(numbers["gradient_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)


def test_microbatches_of_padding_alone_need_not_be_computed():
    whole, _ = step_of(1)(fresh_state(), batch(filled=3))
    used, _ = step_of(4)(fresh_state(), batch(filled=3), 2)
    assert_close(used.params, whole.params)


def test_of_the_microbatches_only_those_used_are_read():
    half = batch(filled=4)
    poisoned = {
        name: np.where(np.arange(8)[:, None] < 4, values, values.dtype.type(3)) for name, values in half.items()
    }
    expected, _ = step_of(4)(fresh_state(), half, 2)
    got, _ = step_of(4)(fresh_state(), poisoned, 2)
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)
    all_of_it, _ = step_of(4)(fresh_state(), poisoned, 4)
    assert np.any(np.asarray(all_of_it.params["embed"]) != np.asarray(got.params["embed"]))


def test_no_microbatch_is_a_step_of_no_gradient():
    state, numbers = step_of(4)(fresh_state(), batch(), 0)
    jax.tree.map(np.testing.assert_array_equal, state.params, fresh_state().params)
    assert float(numbers["loss"]) == 0 and float(numbers["gradient_norm"]) == 0


def test_steps_are_counted_and_the_old_state_is_given_away():
    before = fresh_state()
    state, _ = step_of(1)(before, batch())
    assert int(state.step) == 1 and int(step_of(1)(state, batch())[0].step) == 2
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
