"""The one jitted step of both stages: microbatches add up, unused ones cost nothing and change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asyncthink_jax.config import SFTConfig
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.training import sft
from asyncthink_jax.training.finite import PARAMETERS, NonFiniteError, Skips
from asyncthink_jax.training.optimizer_step import OptimizerStep, new_state

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
    assert numbers.keys() == {"loss", "entropy", "gradient_norm", PARAMETERS}
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


def poisoned():
    """A batch of which one number is NaN: the loss, and the gradient of whatever is behind that token."""
    bad = batch()
    bad["loss_weights"][3, 2] = np.nan
    return bad


def test_a_step_whose_loss_is_not_finite_can_be_left_out_and_the_next_one_is_as_if_it_had_not_been():
    adam = optax.adam(1e-2)
    step = OptimizerStep(sft.make_loss(MODEL, SFTConfig(loss_chunk=64)), adam, MESH, 4, skips=True)
    state, _ = step(new_state(fresh_state().params, adam, MESH), batch())
    before = jax.tree.map(np.array, state)
    skips = Skips(allowed=1)
    state, numbers = step(state, poisoned())
    numbers = jax.device_get(numbers)
    assert np.isnan(numbers["loss"]) and skips.skipped(numbers) and skips.count == 1
    jax.tree.map(np.testing.assert_array_equal, state, before)
    state, numbers = step(state, batch())
    assert not skips.skipped(jax.device_get(numbers)) and int(state.step) == 2


def test_a_step_whose_loss_is_not_finite_ends_the_run_where_none_may_be_left_out():
    _, numbers = step_of(1)(fresh_state(), poisoned())
    with pytest.raises(NonFiniteError, match=r"^loss is nan$") as error:
        Skips(allowed=0).skipped(jax.device_get(numbers))
    assert error.value.can_be_left_out


def test_parameters_that_overflow_end_the_run_whatever_may_be_left_out():
    far = optax.sgd(3e38)
    step = OptimizerStep(sft.make_loss(MODEL, SFTConfig(loss_chunk=64)), far, MESH, 1, skips=True)
    many = batch()
    many["loss_weights"] *= 1e4
    _, numbers = step(new_state(fresh_state().params, far, MESH), many)
    numbers = jax.device_get(numbers)
    assert np.isfinite(numbers["loss"]) and np.isfinite(numbers["gradient_norm"])
    with pytest.raises(NonFiniteError, match="a parameter is not finite after the update") as error:
        Skips(allowed=9).skipped(numbers)
    assert not error.value.can_be_left_out


def test_what_was_left_out_before_a_resume_counts():
    skips, numbers = Skips(allowed=2, count=2), {"loss": np.nan, "gradient_norm": np.inf, PARAMETERS: True}
    with pytest.raises(NonFiniteError, match="loss is nan, after 2 such steps were left out"):
        skips.skipped(numbers)


def test_steps_are_counted_and_the_old_state_is_given_away():
    before = fresh_state()
    state, _ = step_of(1)(before, batch())
    assert int(state.step) == 1 and int(step_of(1)(state, batch())[0].step) == 2
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
