"""The training state and the one jitted step that both stages take."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from asyncthink_jax.model import lora
from asyncthink_jax.model.parameters import param_specs
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.parallel.mesh import platform
from asyncthink_jax.parallel.sharding import laid_out, replicated, row_spec, shard
from asyncthink_jax.training.finite import PARAMETERS, all_finite, left_out

Batch = dict[str, Array]  # packed rows, each [B, L]; see data/packing.py
HostBatch = Mapping[str, np.ndarray]  # such rows before they are on the devices
Loss = Callable[[Params, Batch], tuple[Float[Array, ""], dict[str, Array]]]


@struct.dataclass
class TrainState:
    """What a step changes: fp32 parameters, the optimizer's state, the count of optimizer steps of this stage.

    Of a model with adapters (`model/lora.py`) it has these alone.
    """

    params: Params
    optimizer: Any
    step: Int[Array, ""]


def new_state(params: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A stage's first state, laid out by the table in model/parameters.py: moments are split like their parameters.

    `params` are donated: they are not held twice.
    """
    state = _first_state(optimizer)
    return jax.jit(state, out_shardings=param_specs(jax.eval_shape(state, params), mesh), donate_argnums=0)(params)


def abstract_state(params: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The shapes, types and shardings of `new_state`."""
    shapes = jax.eval_shape(_first_state(optimizer), params)
    return laid_out(shapes, param_specs(shapes, mesh))


def _first_state(optimizer: optax.GradientTransformation) -> Callable[[Params], TrainState]:
    return lambda params: TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


class OptimizerStep:
    """The jitted optimizer step of a stage: gradients summed over microbatches, one update, the state donated.

    Args:
        loss: a sum over its rows, weighted so that the sums of all microbatches add up to the loss of the step, and
            numbers that are summed likewise.
        optimizer: of the trained parameters.
        mesh: rows are split over its data and fsdp axes, gradients like their parameters.
        microbatches: parts that the rows of a batch are cut into.
        frozen: what of the parameters is no part of the state.
        skips: a step whose loss or gradient isn't finite leaves the state as it was. Another program, which rounds
            elsewhere in its last places.
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
        microbatches: int,
        frozen: Params | None = None,
        skips: bool = False,
    ):
        self.loss, self.optimizer, self.mesh, self.microbatches = loss, optimizer, mesh, microbatches
        self.frozen, self.skips = frozen or {}, skips
        self._jitted = jax.jit(self._step, donate_argnums=0)

    def __call__(
        self, state: TrainState, batch: HostBatch, used: int | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step, on a batch of always the same number of rows, of whose microbatches the first `used` are computed.

        The numbers beside the loss's: the norm of the gradient, and whether all parameters are finite now.

        How many rows the episodes of an iteration fill changes, and this way that needs no new compilation.
        """
        used = self.microbatches if used is None else used
        with jax.set_mesh(self.mesh):
            rows = shard(batch, row_spec(self.mesh))
            return self._jitted(state, self.frozen, rows, jnp.asarray(used, jnp.int32))

    def lower(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
        """The program of a call, from shapes with shardings alone; `.compile()` compiles it for the mesh's devices."""
        used = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(self.mesh))
        with jax.set_mesh(self.mesh):
            traced = self._jitted.trace(state, self.frozen, batch, used)
            return traced.lower(lowering_platforms=(platform(),))

    def _step(
        self, state: TrainState, frozen: Params, batch: Batch, used: Int[Array, ""]
    ) -> tuple[TrainState, dict[str, Array]]:
        parts = jax.tree.map(lambda x: x.reshape(self.microbatches, -1, *x.shape[1:]), batch)
        parts = jax.lax.with_sharding_constraint(parts, row_spec(self.mesh, axis=1))
        layout = param_specs(state.params, self.mesh)

        def of_part(i: Array | int) -> Any:
            part = jax.tree.map(lambda x: x[i], parts)
            whole = lambda params: self.loss(lora.join(params, frozen), part)  # noqa: E731
            (value, numbers), gradient = jax.value_and_grad(whole, has_aux=True)(state.params)
            return jax.lax.with_sharding_constraint(gradient, layout), {"loss": value, **numbers}

        if self.microbatches == 1:  # on CPU a loop's body runs its elementwise operations on one core
            gradient, numbers = of_part(0)
        else:
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, 0))
            nothing = jax.lax.with_sharding_constraint(nothing[0], layout), nothing[1]
            gradient, numbers = jax.lax.fori_loop(
                0, used, lambda i, total: jax.tree.map(jnp.add, total, of_part(i)), nothing
            )
        updates, moments = self.optimizer.update(gradient, state.optimizer, state.params)
        numbers["gradient_norm"] = optax.tree.norm(gradient)
        after = TrainState(optax.apply_updates(state.params, updates), moments, state.step + 1)
        if self.skips:  # known before anything is updated, so that each array is still written in place
            out = left_out(numbers)
            after = jax.tree.map(lambda old, new: jnp.where(out, old, new), state, after)
        # Behind a barrier, so that the update is the program that it would be if nobody looked: to the last bit.
        numbers[PARAMETERS] = all_finite(jax.lax.optimization_barrier(after.params))
        state = after
        return jax.lax.with_sharding_constraint(state, param_specs(state, self.mesh)), numbers
