"""The optimizer of a stage, from its config section."""

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from asyncthink_jax.config import OptimizerFields
from asyncthink_jax.model.lora import is_adapter
from asyncthink_jax.model.parameters import find, path_name
from asyncthink_jax.parallel.sharding import constrain_stack, devices_of_stack


def make_optimizer(fields: OptimizerFields, steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW, or Muon for the matrices of the layers beside Adam for embeddings and norms.

    Both learning rates rise linearly over `warmup_steps`, then fall linearly to `final_fraction` of it at `steps`.
    """

    def schedule(peak: float) -> optax.Schedule:
        warmup = min(fields.warmup_steps, max(1, steps // 2))
        rise = optax.linear_schedule(peak / max(1, warmup), peak, warmup)
        fall = optax.linear_schedule(peak, peak * fields.final_fraction, max(1, steps - warmup))
        return optax.join_schedules([rise, fall], [warmup])

    if fields.optimizer == "muon":
        muon = optax.chain(
            optax.trace(0.95, nesterov=True),
            orthogonalize(),
            optax.add_decayed_weights(fields.weight_decay),
            optax.scale_by_learning_rate(schedule(fields.learning_rate)),
        )
        adam = optax.nadam(schedule(fields.adam_learning_rate), b1=fields.b1, b2=fields.b2)
        rule = optax.partition({"muon": muon, "adam": adam}, _rules)
    else:
        rule = optax.adamw(
            schedule(fields.learning_rate),
            b1=fields.b1,
            b2=fields.b2,
            mu_dtype=fields.momentum_dtype,
            weight_decay=fields.weight_decay,
            mask=_decayed,
        )
    return optax.chain(optax.clip_by_global_norm(fields.grad_clip), rule)


def orthogonalize() -> optax.GradientTransformation:
    """Muon's rule: the nearest matrix whose directions all have the same length, sqrt(max(1, outputs / inputs)).

    `optax.contrib.muon` does that to each weight for itself, on every device. Here all matrices of one shape are one
    stack, of which each device takes its share: on one core the iterations are a fifth of a step of the demo.
    """
    muon = optax.contrib.scale_by_muon(beta=0.0, nesterov=False, weight_dimension_numbers=_in_stacks)

    def update(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        del params
        leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
        matrices = [_as_matrices(path, leaf) for path, leaf in leaves]
        same_shape = collections.defaultdict(list)  # places of the leaves whose matrices are [m, n] or [n, m], m <= n
        for place, matrix in enumerate(matrices):
            same_shape[tuple(sorted(matrix.shape[1:]))].append(place)
        stacks = {shape: _stack([_upright(matrices[i]) for i in places]) for shape, places in same_shape.items()}
        stacks, _ = muon.update(stacks, muon.init(stacks))
        done = [leaf for _, leaf in leaves]
        for shape, places in same_shape.items():
            ends = np.cumsum([len(matrices[i]) for i in places])
            for i, part in zip(places, jnp.split(constrain_stack(stacks[shape]), ends), strict=False):  # then the zeros
                _, inputs, outputs = matrices[i].shape
                part = part.swapaxes(1, 2) if inputs > outputs else part
                done[i] = math.sqrt(max(1.0, outputs / inputs)) * part.reshape(done[i].shape)
        return jax.tree.unflatten(tree, done)

    return optax.stateless(update)


def _in_stacks(stacks: Any) -> Any:
    return jax.tree.map(lambda _: MuonDimensionNumbers(reduction_axis=1, output_axis=2), stacks)


def _stack(matrices: list[jax.Array]) -> jax.Array:
    """One array [n, ..], split over the devices; zeros at its end make n a multiple of them."""
    stack = jnp.concatenate(matrices)
    missing = -len(stack) % devices_of_stack()
    return constrain_stack(jnp.pad(stack, ((0, missing), (0, 0), (0, 0))))


def _as_matrices(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    """A weight [layers, ..] as [layers, inputs, outputs], which an adapter's is already."""
    row = find(path)
    return leaf if row is None else leaf.reshape(leaf.shape[0], math.prod(leaf.shape[1 : 1 + len(row.inputs)]), -1)


def _upright(matrix: jax.Array) -> jax.Array:
    return matrix if matrix.shape[1] <= matrix.shape[2] else matrix.swapaxes(1, 2)


def _rules(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "muon" if _is_matrix(path) else "adam", params)


def _decayed(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_matrix(path), params)


def _is_matrix(path: tuple[Any, ...]) -> bool:
    """Whether it is a linear map of the layers, or one of the two matrices of an adapter."""
    row = find(path)
    return is_adapter(path_name(path)) if row is None else row.is_matrix
