"""The optimizer: who updates what, by how much, at which step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from asyncthink_jax.config import OptimizerFields
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.training.optimizer import make_optimizer

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
MODEL = ModelConfig(11, layers=2, width=12, heads=2, kv_heads=1, head_dim=4, mlp_width=16, tied_embeddings=False)
FIELDS = {"warmup_steps": 0, "learning_rate": 0.1, "adam_learning_rate": 0.01, "grad_clip": 1e9}


@pytest.fixture(scope="module")
def params():
    return jax.jit(transformer.init, static_argnums=0)(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def gradient(params):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), params)


@functools.cache
def jitted(**fields):
    optimizer = make_optimizer(OptimizerFields(**(FIELDS | fields)), steps=10)
    return jax.jit(optimizer.init), jax.jit(optimizer.update)


def updates(params, *gradients, **fields):
    """The last update of a fresh optimizer."""
    init, step = jitted(**fields)
    state = init(params)
    for gradient in gradients:
        update, state = step(gradient, state, params)
    return update


def by_path(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def moved(update):
    return {path for path, leaf in by_path(update).items() if np.any(np.asarray(leaf) != 0)}


def test_muon_updates_the_matrices_of_the_layers_and_adam_the_rest(params, gradient):
    everything = set(by_path(params))
    matrices = {f"layers/{name}/kernel" for name in MATRICES}
    assert matrices < everything
    assert moved(updates(params, gradient, optimizer="muon", adam_learning_rate=0.0)) == matrices
    assert moved(updates(params, gradient, optimizer="muon", learning_rate=0.0)) == everything - matrices


def test_muons_update_of_a_matrix_turns_all_its_directions_alike(params, gradient):
    update = by_path(updates(params, gradient, optimizer="muon"))
    shapes = {
        "q": (12, 8),
        "k": (12, 4),
        "v": (12, 4),
        "o": (8, 12),
        "gate": (12, 16),
        "up": (12, 16),
        "down": (16, 12),
    }
    for name, (inputs, outputs) in shapes.items():
        for layer in np.asarray(update[f"layers/{name}/kernel"]):
            values = np.linalg.svd(layer.reshape(inputs, outputs), compute_uv=False)
            assert values.max() / values.min() < 2.2, name  # a random matrix of these shapes has 4 and more
            assert values.max() < 0.1 * 1.3 * max(1, outputs / inputs) ** 0.5, name


def test_adapters_are_matrices_to_muon_and_to_weight_decay():
    rng = np.random.default_rng(0)
    shapes = {"q": ((2, 12, 3), (2, 3, 8)), "o": ((2, 8, 3), (2, 3, 12))}
    params = {
        "layers": {
            name: {"kernel_lora_a": rng.standard_normal(a, np.float32), "kernel_lora_b": np.ones(b, np.float32)}
            for name, (a, b) in shapes.items()
        }
    }
    gradient = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), params)
    update = updates(params, gradient, optimizer="muon", adam_learning_rate=0.0)
    for path, leaf in by_path(update).items():
        for layer in np.asarray(leaf):
            values = np.linalg.svd(layer, compute_uv=False)
            assert values.min() > 0.6 * values.max() > 0, path
    nothing = jax.tree.map(np.zeros_like, params)
    for optimizer in ("muon", "adamw"):
        assert moved(updates(params, nothing, optimizer=optimizer, weight_decay=0.5)) == set(by_path(params))


def test_the_first_update_of_the_matrices_is_that_of_optaxs_muon(params, gradient):
    dimensions = {name: MuonDimensionNumbers(1, (2, 3)) for name in "qkv"}
    dimensions |= {"o": MuonDimensionNumbers((1, 2), 3)}
    dimensions |= {name: MuonDimensionNumbers(1, 2) for name in ("gate", "up", "down")}
    matrices = {name: gradient["layers"][name] for name in MATRICES}
    muon = optax.contrib.muon(
        0.1, muon_weight_dimension_numbers={name: {"kernel": dimensions[name]} for name in MATRICES}
    )
    expected, _ = jax.jit(muon.update)(matrices, muon.init(matrices), matrices)
    got = updates(params, gradient, optimizer="muon")["layers"]
    for name in MATRICES:
        np.testing.assert_allclose(got[name]["kernel"], expected[name]["kernel"], atol=1e-5, err_msg=name)


def test_adams_first_update_is_its_learning_rate(params, gradient):
    for name, leaf in by_path(updates(params, gradient)).items():
        np.testing.assert_allclose(np.abs(leaf), 0.1, rtol=1e-4, err_msg=name)
    for name, leaf in by_path(updates(params, gradient, optimizer="muon")).items():
        if name.removeprefix("layers/").split("/")[0] not in MATRICES:
            # Optax gives this Adam Nesterov's momentum, which makes the first update (1 + b1 / (1 + b1)) times as long.
            np.testing.assert_allclose(np.abs(leaf), 0.01 * (1 + 0.9 / 1.9), rtol=1e-4, err_msg=name)


def test_weight_decay_pulls_at_matrices_alone(params, gradient):
    decayed = by_path(updates(params, gradient, weight_decay=0.5))
    plain = by_path(updates(params, gradient))
    for name, leaf in by_path(params).items():
        pull = -0.1 * 0.5 * leaf if name.endswith("kernel") else 0 * leaf
        np.testing.assert_allclose(decayed[name] - plain[name], pull, atol=1e-6, err_msg=name)


def learning_rates(steps, **fields):
    """Adam's update for a gradient that is always the same is the learning rate."""
    params = {"scale": jnp.zeros(3)}
    optimizer = make_optimizer(OptimizerFields(**(FIELDS | fields)), steps)
    state, step, rates = optimizer.init(params), jax.jit(optimizer.update), []
    for _ in range(steps):
        update, state = step({"scale": jnp.full(3, 0.01)}, state, params)
        rates.append(-float(update["scale"][0]))
    return np.array(rates)


def test_the_learning_rate_rises_and_falls_linearly():
    rates = learning_rates(12, warmup_steps=4, learning_rate=0.4, final_fraction=0.25)
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert np.argmax(rates) == 4 and rates[4] == pytest.approx(0.4, rel=1e-3)
    np.testing.assert_allclose(np.diff(rates[:5]), 0.075, rtol=1e-2)
    np.testing.assert_allclose(np.diff(rates[4:]), -0.3 / 8, rtol=1e-2)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_stage_shorter_than_its_warmup_has_a_learning_rate_all_the_same(steps):
    rates = learning_rates(steps, warmup_steps=20, learning_rate=0.4)
    assert np.all(rates > 0.01) and np.all(rates < 0.401)


def test_a_large_gradient_is_clipped_by_its_global_norm(params, gradient):
    # Adam divides by the size of its gradients, so that one alone says nothing: the second of two, the first small.
    scaled = lambda factor: jax.tree.map(lambda g: g * factor, gradient)  # noqa: E731
    small, norm = scaled(0.01), float(optax.tree.norm(gradient))
    clipped, free = (updates(params, small, scaled(1e4), grad_clip=limit) for limit in (1.0, 1e9))
    expected = updates(params, small, scaled(1 / norm))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), clipped, expected)
    assert all(
        not np.allclose(a, b, rtol=0.1) for a, b in zip(jax.tree.leaves(clipped), jax.tree.leaves(free), strict=True)
    )
