"""LoRA: two thin matrices beside each matrix of the layers, trained while everything else is frozen (by qwix).

A matrix W [inputs, outputs] acts as W + alpha / rank * A B. At first A [inputs, rank] is random and B [rank, outputs]
is zero. In the parameter tree `kernel_lora_a` and `kernel_lora_b` stand beside `kernel`. Only training keeps them
apart: rollouts and exports `merge` them, so decoding costs the same as without adapters.
"""

from importlib.util import find_spec
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from asyncthink_jax.model.model_config import LoRA

Params = dict[str, Any]
A, B = "kernel_lora_a", "kernel_lora_b"


def is_adapter(path: str) -> bool:
    """Whether a path of a parameter tree ends at an adapter's matrix."""
    return path.endswith((A, B))


def is_installed() -> bool:
    """Whether qwix, which makes the adapters, can be imported. Models without adapters don't need it."""
    return find_spec("qwix") is not None


def adapted(model: nn.Module, config: LoRA) -> nn.Module:
    """The model with its adapters; without any, the model itself."""
    if config.rank == 0:
        return model
    import qwix  # takes a quarter of a second; only models with adapters need it

    provider = qwix.LoraProvider(module_path="layers/.*", rank=config.rank, alpha=config.alpha)
    return qwix.apply_lora_to_model(model, provider)


def split(params: Params) -> tuple[Params, Params]:
    """(trained parameters, frozen parameters): adapters and the rest. Without adapters all are trained."""
    if not any(A in module for module in params["layers"].values()):
        return params, {}
    adapters, rest = {}, {}
    for name, module in params["layers"].items():
        adapters[name] = {key: value for key, value in module.items() if key in (A, B)}
        rest[name] = {key: value for key, value in module.items() if key not in (A, B)}
    return {"layers": {name: module for name, module in adapters.items() if module}}, {**params, "layers": rest}


def join(trained: Params, frozen: Params) -> Params:
    """The inverse of `split`."""
    if not frozen:
        return trained
    layers = {name: {**module, **trained["layers"].get(name, {})} for name, module in frozen["layers"].items()}
    return {**frozen, "layers": layers}


def cast(params: Params, dtype: str) -> Params:
    """Casts the adapters to the compute type: qwix doesn't cast them, and fp32 adapters would make fp32 activations."""
    trained, frozen = split(params)
    return join(jax.tree.map(lambda x: x.astype(dtype), trained), frozen) if frozen else params


def merge(params: Params, config: LoRA) -> Params:
    """Parameters of the same model without adapters: their products (computed in fp32) added to the matrices."""
    if config.rank == 0:
        return params

    def merged(module: Params) -> Params:
        if A not in module:
            return module
        kernel = module["kernel"]
        product = jnp.einsum(
            "lir,lro->lio", module[A].astype(jnp.float32), module[B].astype(jnp.float32), precision="highest"
        )
        total = kernel.astype(jnp.float32) + config.alpha / config.rank * product.reshape(kernel.shape)
        return {**{k: v for k, v in module.items() if k not in (A, B)}, "kernel": total.astype(kernel.dtype)}

    return {**params, "layers": {name: merged(module) for name, module in params["layers"].items()}}
