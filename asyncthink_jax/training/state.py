"""The training state and the one jitted step that both stages take."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from asyncthink_jax.model import lora
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.parallel.sharding import param_specs, row_spec

Batch = dict[str, Array]  # packed rows, each [B, L]; see data/packing.py
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
    """A stage's first state, laid out by the table in parallel/sharding.py: moments are split like their parameters."""
    state = lambda params: TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))  # noqa: E731
    shardings = param_specs(jax.eval_shape(state, params), mesh)
    return jax.jit(state, out_shardings=shardings)(params)


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh, microbatches: int, frozen: Params | None = None
) -> Callable[[TrainState, Batch, int], tuple[TrainState, dict[str, Array]]]:
    """The jitted optimizer step of a stage: gradients summed over microbatches, one update, the state donated.

    `loss` returns a sum over its rows, weighted so that the sums of all microbatches add up to the loss of the step. A
    step takes batches of a fixed number of rows, cut into `microbatches`, of which only the first `used` are computed:
    how many rows the episodes of an iteration fill changes, and this way that needs no new compilation. The auxiliary
    numbers of `loss` are summed likewise. `frozen`: what of the parameters is no part of the state.
    """

    def step(
        state: TrainState, frozen: Params, batch: Batch, used: Int[Array, ""]
    ) -> tuple[TrainState, dict[str, Array]]:
        parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), batch)
        parts = jax.lax.with_sharding_constraint(parts, row_spec(mesh, axis=1))

        def of_part(i: Array | int) -> Any:
            part = jax.tree.map(lambda x: x[i], parts)
            whole = lambda params: loss(lora.join(params, frozen), part)  # noqa: E731
            (value, numbers), gradient = jax.value_and_grad(whole, has_aux=True)(state.params)
            return gradient, {"loss": value, **numbers}

        if microbatches == 1:  # on CPU a loop's body runs its elementwise operations on one core
            gradient, numbers = of_part(0)
        else:
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, 0))
            gradient, numbers = jax.lax.fori_loop(
                0, used, lambda i, total: jax.tree.map(jnp.add, total, of_part(i)), nothing
            )
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        numbers["gradient_norm"] = optax.tree.norm(gradient)
        return TrainState(optax.apply_updates(state.params, updates), moments, state.step + 1), numbers

    jitted = jax.jit(step, donate_argnums=0)

    def run(state: TrainState, batch: Batch, used: int = microbatches) -> tuple[TrainState, dict[str, Array]]:
        with jax.set_mesh(mesh):
            batch = jax.device_put(batch, row_spec(mesh))
            return jitted(state, frozen or {}, batch, jnp.asarray(used, jnp.int32))

    return run
