"""Writes a checkpoint of a billion parameters, or loads it on eight devices and says what that took.

python tests/model/loading_memory.py write FOLDER
XLA_FLAGS=--xla_force_host_platform_device_count=8 python tests/model/loading_memory.py load FOLDER DTYPE FSDP TENSOR
"""

import json
import pathlib
import sys
import time

import jax
import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from asyncthink_jax.model import transformer
from asyncthink_jax.model.hf_config import to_hf
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.parameters import param_specs
from asyncthink_jax.model.tensors import file_tensors
from asyncthink_jax.model.weights import load, open_weights
from asyncthink_jax.parallel.mesh import make_mesh

CONFIG = ModelConfig(vocab_size=98_304, layers=16, width=2048, heads=16, kv_heads=8, head_dim=128, mlp_width=6144)


def write(folder: pathlib.Path) -> None:
    """In bf16, a file for each two layers."""
    (folder / "config.json").write_text(json.dumps(to_hf(CONFIG, "bfloat16", 4096, {})))
    block = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32).astype(ml_dtypes.bfloat16)
    files: dict[str, dict[str, np.ndarray]] = {}
    weight_map = {}
    for number, one in enumerate(file_tensors(CONFIG, "hf")):
        name = f"model-{1 + one.layer // 2 if one.row.in_layers else 0:05}.safetensors"
        files.setdefault(name, {})[one.name] = np.resize(np.roll(block, number), one.shape)
        weight_map[one.name] = name
        for done in [file for file in files if file != name]:
            save_file(files.pop(done), folder / done, metadata={"format": "pt"})
    for last, tensors in files.items():
        save_file(tensors, folder / last, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def memory(field: str) -> int:
    """Bytes by /proc/self/status. VmRSS and its largest value, VmHWM, count mapped pages of files as well."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(folder: pathlib.Path, dtype: str, fsdp: int, tensor: int) -> dict[str, float]:
    mesh = make_mesh(1, fsdp, tensor)
    layout = param_specs(transformer.abstract_params(CONFIG), mesh)
    weights = open_weights(folder)
    jax.block_until_ready(jax.device_put(np.zeros((8, 8)), param_specs({"embed": np.zeros((8, 8))}, mesh)["embed"]))
    before, started = memory("VmRSS"), time.monotonic()
    params = jax.block_until_ready(load(weights, CONFIG, layout, dtype))
    seconds, peak = time.monotonic() - started, memory("VmHWM")
    assert all(jax.tree.leaves(jax.tree.map(lambda p, s: p.sharding == s, params, layout)))
    name = "model.layers.7.mlp.gate_proj.weight"
    with safe_open(weights.where(name), "numpy") as file:
        np.testing.assert_array_equal(
            np.asarray(params["layers"]["gate"]["kernel"][7]), file.get_tensor(name).T.astype(np.dtype(dtype))
        )
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return {"arrays": arrays, "before": before, "peak": peak, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(pathlib.Path(sys.argv[2]))
    else:
        print(json.dumps(measured(pathlib.Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))))
