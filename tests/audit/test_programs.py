"""Every step compiled ahead: here for this machine's CPU and tiny models; for TPUs in compiled_for_tpu.py."""

import dataclasses
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from asyncthink_jax.audit.chips import Chip
from asyncthink_jax.audit.programs import STEPS, compile_step, experiment_on, on_a_chip, sent_bytes, steps
from asyncthink_jax.config import Config, MeshConfig, RLConfig, RolloutConfig, SFTConfig
from asyncthink_jax.model.model_config import LoRA, ModelConfig
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.optimizer_step import new_state

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Config(
    name="ahead",
    pretrained="not/here",
    model=ModelConfig(vocab_size=300, layers=2, width=32, heads=2, kv_heads=1, head_dim=16, mlp_width=64),
    mesh=MeshConfig(data=1),
    rollout=RolloutConfig(slots=4, organizer_budget=40, worker_budget=20, context=80, worker_context=64, prefill=16),
    sft=SFTConfig(steps=10, rows=4, row_length=64, optimizer="adamw"),
    rl=RLConfig(iterations=5, prompts=2, group_size=2, rows=4, row_length=80),
)
CHIP = Chip(hbm=2**30, flops=1e12, bandwidth=1e11, interconnect=1e10)


def experiment(**changes):
    return experiment_on(dataclasses.replace(CONFIG, **changes), make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def compiled():
    return {step.name: compile_step(step, CHIP) for step in steps(experiment())}


def test_every_step_of_a_run_is_compiled_without_its_weights(compiled):
    assert tuple(compiled) == STEPS
    for one in compiled.values():
        assert one.fits and one.hbm_bytes > 0 and one.bytes > 0 and one.compile_s > 0
        assert one.bound in ("compute", "memory", "interconnect") and one.collectives == {}
        assert one.hbm_bytes == one.argument_bytes + one.temporary_bytes + one.output_bytes + one.resident_bytes


def test_steps_that_a_run_does_not_have_are_not_compiled():
    names = [step.name for step in steps(experiment(rl=dataclasses.replace(CONFIG.rl, iterations=0)))]
    assert names == ["sft_step", "reshard", "prefill", "decode"]
    short = [step.name for step in steps(experiment(), prompt_length=8)]  # too short to be read at once
    assert "prefill" not in short


def test_the_reference_of_a_kl_penalty_is_there_in_all_of_rl():
    def resident(kl):
        rl = dataclasses.replace(CONFIG.rl, kl=kl)
        return {step.name: step.resident for step in steps(experiment(rl=rl)) if step.name != "sft_step"}

    without, beside = resident(0.0), resident(0.1)
    parameters = beside["rl_step"] - without["rl_step"]
    assert parameters > 0 and beside == {name: size + parameters for name, size in without.items()}


def test_an_all_reduce_is_sent_twice():
    assert sent_bytes({"all-gather": {"bytes": 3.0}, "all-reduce": {"bytes": 2.0}}) == 7.0


def test_a_step_that_does_not_fit_says_so(compiled):
    decode = next(step for step in steps(experiment()) if step.name == "decode")
    small = dataclasses.replace(CHIP, hbm=compiled["decode"].hbm_bytes - 1)
    assert not compile_step(decode, small).fits
    assert "rollout.slots" in decode.remedy


def test_the_state_of_training_stays_where_it_is_during_a_rollout(compiled):
    built = experiment()
    state = new_state(built.new_params(), make_optimizer(CONFIG.rl, 10), built.mesh)
    parameters_and_moments = on_a_chip((state.params, state.optimizer))
    assert compiled["decode"].resident_bytes == parameters_and_moments
    assert compiled["rl_step"].resident_bytes == 0
    assert compiled["rl_step"].argument_bytes >= parameters_and_moments


def test_of_a_kl_penalty_the_reference_stays_too():
    kept = {step.name: step.resident for step in steps(experiment(rl=dataclasses.replace(CONFIG.rl, kl=0.1)))}
    assert kept["rl_step"] == on_a_chip(experiment().abstract_params())


def test_adapters_have_a_small_state():
    model = dataclasses.replace(CONFIG.model, lora=LoRA(rank=2))
    whole, adapters = experiment(), experiment(model=model)
    assert on_a_chip(adapters.abstract_params()) < 0.3 * on_a_chip(whole.abstract_params())
    names = {step.name: step for step in steps(adapters)}
    assert compile_step(names["sft_step"], CHIP).fits
    assert compile_step(names["reshard"], CHIP).fits


@pytest.fixture
def any_products(monkeypatch):
    """What JAX is set to take of products of fp32, after the test as before."""
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


def precisions(built):
    """Of all matrix products of a rollout and of an RL step."""
    texts = {step.name: step.lower().as_text() for step in steps(built) if step.name in ("decode", "rl_step")}
    found = {name: re.findall(r"dot_general.*precision = \[(\w+), (\w+)\]", text) for name, text in texts.items()}
    assert all(len(of_step) > 10 for of_step in found.values())
    return {one for of_step in found.values() for one in of_step}


def test_a_model_in_fp32_multiplies_in_full(any_products):
    assert precisions(experiment()) == {("HIGHEST", "HIGHEST")}


def test_a_model_in_bfloat16_multiplies_as_the_chip_does(any_products):
    experiment()  # another model in the same process
    model = dataclasses.replace(CONFIG.model, dtype="bfloat16")
    assert precisions(experiment(model=model)) == {("DEFAULT", "DEFAULT")}


def test_products_are_as_the_environment_says(any_products, monkeypatch):
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "high")
    jax.config.update("jax_default_matmul_precision", "high")  # as JAX does with it at its start
    assert precisions(experiment()) == {("HIGH", "HIGH")}


def test_bytes_on_a_chip_are_those_of_its_share():
    tree = experiment().abstract_params()
    assert on_a_chip(tree) == sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.tpu_plugin
def test_for_tpus():
    libtpu = ROOT / ".libtpu"
    if not (libtpu / "installed").exists():
        pytest.skip("no libtpu; `make test-all` installs it")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            Path(__file__).with_name("compiled_for_tpu.py"),
        ],
        env=os.environ | {"PYTHONPATH": str(libtpu), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
