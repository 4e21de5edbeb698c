"""The sharding table; what needs several devices is run here in a process that simulates them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from asyncthink_jax.model import transformer
from asyncthink_jax.model.parameters import param_specs, rollout_specs
from asyncthink_jax.model.presets import PRESETS
from asyncthink_jax.parallel.mesh import make_mesh


def on_eight_devices(program, flags=""):
    """Runs a file of tests in a process with eight simulated devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {flags}"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(program))],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_on_eight_simulated_devices():
    on_eight_devices("eight_devices.py")


@pytest.mark.slow
def test_a_run_on_eight_simulated_devices():
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
    on_eight_devices("run_on_eight_devices.py", quick)


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-8B"])
def test_every_matrix_is_split_over_fsdp_and_tensor_in_training_and_over_tensor_alone_in_rollouts(name):
    shapes = transformer.abstract_params(PRESETS[name])
    mesh = make_mesh()
    trained, rolled = param_specs(shapes, mesh), rollout_specs(shapes, mesh)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        training, rollout = (_at(tree, path).spec for tree in (trained, rolled))
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        expected = {"fsdp", "tensor"} if name.endswith("kernel") or "embed" in name else set()
        assert {axis for axis in training if axis} == expected, name
        assert {axis for axis in rollout if axis} == expected - {"fsdp"}, name
        assert len(training) == leaf.ndim


def test_optimizer_state_is_laid_out_like_the_parameters():
    shapes = transformer.abstract_params(PRESETS["Qwen3-0.6B"])
    mesh = make_mesh()
    state = jax.eval_shape(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init, shapes)
    adam = param_specs(state, mesh)[1][0]
    assert adam.mu == adam.nu == param_specs(shapes, mesh)
    assert adam.count.spec == P()


def test_a_parameter_that_no_line_names_is_refused():
    with pytest.raises(ValueError, match=r"parameter layers/router/kernel \(20, 4\): no row of the table"):
        param_specs({"layers": {"router": {"kernel": np.zeros((20, 4))}}}, make_mesh())


def _at(tree, path):
    for entry in path:
        tree = tree[entry.key]
    return tree
