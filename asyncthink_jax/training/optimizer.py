"""The optimizer of a stage, from its config section."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from asyncthink_jax.config import OptimizerFields

# Which axes of a stacked weight [layers, ..] a matrix multiplication sums over, and which it yields; the rest is batch.
MATRICES = {
    "q": MuonDimensionNumbers(reduction_axis=1, output_axis=(2, 3)),
    "k": MuonDimensionNumbers(reduction_axis=1, output_axis=(2, 3)),
    "v": MuonDimensionNumbers(reduction_axis=1, output_axis=(2, 3)),
    "o": MuonDimensionNumbers(reduction_axis=(1, 2), output_axis=3),
    "gate": MuonDimensionNumbers(reduction_axis=1, output_axis=2),
    "up": MuonDimensionNumbers(reduction_axis=1, output_axis=2),
    "down": MuonDimensionNumbers(reduction_axis=1, output_axis=2),
}


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
        rule = optax.contrib.muon(
            schedule(fields.learning_rate),
            beta=0.95,
            weight_decay=fields.weight_decay,
            adam_b1=fields.b1,
            adam_b2=fields.b2,
            adam_learning_rate=schedule(fields.adam_learning_rate),
            muon_weight_dimension_numbers=_matrices,
        )
    else:
        rule = optax.adamw(
            schedule(fields.learning_rate),
            b1=fields.b1,
            b2=fields.b2,
            weight_decay=fields.weight_decay,
            mask=_is_matrix,
        )
    return optax.chain(optax.clip_by_global_norm(fields.grad_clip), rule)


def _matrices(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: MATRICES.get(_names(path)[-2]), params)


def _is_matrix(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: _names(path)[-1] == "kernel", params)


def _names(path: tuple[Any, ...]) -> list[str]:
    return ["", *(str(entry.key) for entry in path if hasattr(entry, "key"))]
