"""Adapters: what is trained and what is frozen, and that merging them changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from asyncthink_jax.model import lora, transformer
from asyncthink_jax.model.model_config import LoRA, ModelConfig
from asyncthink_jax.training.logprobs import token_logprobs
from asyncthink_jax.training.optimizer_step import OptimizerStep, new_state

pytestmark = pytest.mark.filterwarnings("ignore:'VariableState' was removed:DeprecationWarning")  # asked for by qwix

DENSE = ModelConfig(vocab_size=19, layers=3, width=16, heads=4, kv_heads=2, head_dim=6, mlp_width=24)
ADAPTED = dataclasses.replace(DENSE, lora=LoRA(rank=2, alpha=6.0))
TOKENS = jnp.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
POSITIONS = jnp.array([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 1]])


@pytest.fixture
def params() -> lora.Params:
    """With adapters that do something: the second matrix of each is not zero."""
    fresh = transformer.init(ADAPTED, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 99))
    return jax.tree_util.tree_map_with_path(
        lambda path, x: 0.3 * jax.random.normal(next(keys), x.shape) if path[-1].key == lora.B else x, fresh
    )


def forward(config: ModelConfig, params: lora.Params) -> jax.Array:
    return transformer.forward(config, params, TOKENS, POSITIONS, SEGMENTS)


def test_every_matrix_of_the_layers_has_an_adapter_and_nothing_else(params: lora.Params) -> None:
    trained, frozen = lora.split(params)
    assert set(trained) == {"layers"}
    assert set(trained["layers"]) == {"q", "k", "v", "o", "gate", "up", "down"}
    assert jax.tree.structure(frozen) == jax.tree.structure(transformer.abstract_params(DENSE))
    assert {x.shape for x in jax.tree.leaves(trained)} == {(3, 16, 2), (3, 2, 24), (3, 2, 12), (3, 24, 2), (3, 2, 16)}


def test_joining_undoes_splitting(params: lora.Params) -> None:
    jax.tree.map(np.testing.assert_array_equal, lora.join(*lora.split(params)), params)


def test_a_model_without_adapters_is_trained_as_a_whole() -> None:
    params = transformer.init(DENSE, jax.random.key(0))
    assert lora.split(params) == (params, {})
    assert lora.join(params, {}) is params


def test_fresh_adapters_change_nothing() -> None:
    params = transformer.init(ADAPTED, jax.random.key(0))
    np.testing.assert_allclose(forward(ADAPTED, params), forward(DENSE, lora.split(params)[1]), atol=1e-6)


def test_merged_is_the_same_model(params: lora.Params) -> None:
    merged = lora.merge(params, ADAPTED.lora)
    assert jax.tree.structure(merged) == jax.tree.structure(transformer.abstract_params(DENSE))
    difference = jnp.abs(forward(ADAPTED, params) - forward(DENSE, merged)).max()
    assert difference < 1e-5
    assert jnp.abs(forward(ADAPTED, params) - forward(DENSE, lora.split(params)[1])).max() > 1e-2


def test_activations_stay_in_the_compute_type(params: lora.Params) -> None:
    config = dataclasses.replace(ADAPTED, dtype="bfloat16")
    assert forward(config, params).dtype == jnp.bfloat16


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_step_trains_adapters_alone(params: lora.Params, remat: str) -> None:
    config = dataclasses.replace(ADAPTED, remat=remat)

    def loss(params: lora.Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        logprobs, _ = token_logprobs(config, params, batch["tokens"], batch["positions"], batch["segment_ids"])
        return -jnp.sum(logprobs * batch["weights"]), {}

    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
    trained, frozen = lora.split(params)
    before = jax.tree.map(np.array, trained)
    optimizer = optax.adam(1e-2)
    state = new_state(trained, optimizer, mesh)
    step = OptimizerStep(loss, optimizer, mesh, microbatches=2, frozen=frozen)
    weights = (POSITIONS > 0) / 9
    batch = {"tokens": TOKENS, "positions": POSITIONS, "segment_ids": SEGMENTS, "weights": weights}
    losses = []
    for _ in range(5):
        state, numbers = step(state, batch)
        losses.append(float(numbers["loss"]))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1
    assert jax.tree.structure(state.params) == jax.tree.structure(trained)
    changed = jax.tree.map(lambda old, new: bool(np.any(old != new)), before, state.params)
    assert all(jax.tree.leaves(changed))
