"""What must hold in programs for TPUs; test_programs.py runs this file with the TPU compiler, which needs no TPU."""

import dataclasses
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from asyncthink_jax.audit import hlo
from asyncthink_jax.audit.chips import CHIPS, TopologyError, topology
from asyncthink_jax.audit.programs import experiment_on, steps
from asyncthink_jax.config import load
from asyncthink_jax.model import transformer
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.rollout.ahead import NARROW_STEP

CONFIG = Path(__file__).resolve().parents[2] / "experiments" / "countdown_qwen3.py"
# Qwen3-4B's widths, two of its layers, and a vocabulary that the eye finds in a shape.
SMALL = ["model.layers=2", "model.vocab_size=40960", "rollout.slots=16", "sft.rows=8", "sft.microbatches=2"]
SMALL += ["rl.rows=8", "rl.microbatches=2", "rl.row_length=1024", "rollout.context=1024", "rollout.worker_context=512"]
SMALL += ["rollout.organizer_budget=512", "rollout.worker_budget=256", "sft.row_length=1024", "rl.prompts=4"]
VOCABULARY, ROWS, LENGTH = 40960, 8, 1024


@functools.cache
def experiment():
    config = load(CONFIG, [*SMALL, "rollout.feed_width=1", "rollout.prefill=0"])
    chip, devices = topology("v5e:2x2")
    assert chip == CHIPS["v5e"] and len(devices) == 4
    return experiment_on(config, make_mesh(1, 1, 4, devices))


@functools.cache
def compiled(name):
    return next(step for step in steps(experiment()) if step.name == name).lower().compile()


def test_the_decode_loop_gathers_no_parameters():
    program = hlo.parse(compiled("decode").as_text())
    body = hlo.loop_of_scope(program, NARROW_STEP)
    rows = 16 * 4
    gathered = hlo.collectives(program, body).get("all-gather", (0, 0))[1]
    # What is gathered are the scores that a token is drawn from: fp32, a few times over.
    assert gathered <= 3 * 4 * rows * VOCABULARY
    assert not re.search(r"all-gather\(%?param", "\n".join(one.attributes for one in program[body].values()))
    layers = sum(x.size for x in jax.tree.leaves(transformer.abstract_params(experiment().model)["layers"]))
    assert 2 * layers > 3 * 4 * rows * VOCABULARY  # the layers alone, in bf16, would be beyond that


def cache_on_a_chip() -> float:
    cache = jax.eval_shape(
        lambda: [transformer.init_cache(experiment().model, rows, length) for rows, length in ((16, 1024), (48, 512))]
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) / 4


def test_the_temporaries_of_a_rollout_are_a_fraction_of_its_cache():
    # Two layers of 36: what does not grow with the layers (scores of the vocabulary) stands beside a small cache here.
    scores = 4 * 16 * 4 * VOCABULARY
    assert compiled("decode").memory_analysis().temp_size_in_bytes < 0.15 * cache_on_a_chip() + 4 * scores


def test_no_step_of_training_has_the_logits_of_a_batch():
    text = compiled("rl_step").as_text()
    for rows in (ROWS, ROWS // 2):
        for vocabulary in (VOCABULARY, VOCABULARY // 4):
            for shape in (f"[{rows},{LENGTH},{vocabulary}]", f"[{rows * LENGTH},{vocabulary}]"):
                assert shape not in text
    assert re.search(rf"\[4,\d+,{VOCABULARY // 4}\]", text)  # of a chunk


def test_attention_is_the_kernel_that_keeps_the_scores_on_the_chip():
    text = compiled("rl_step").as_text()
    assert "splash_mha_fwd" in text and "splash_mha_dkv" in text
    assert f",{LENGTH},{LENGTH}]" not in text


def test_gathers_and_sums_of_a_training_step_are_counted_with_their_loops():
    _, devices = topology("v5e:2x2")
    config = load(CONFIG, [*SMALL, "model.layers=3", "sft.microbatches=2"])
    built = experiment_on(config, make_mesh(1, 4, 1, devices))
    step = next(step for step in steps(built) if step.name == "sft_step")
    program = hlo.parse(step.lower().compile().as_text())
    found = hlo.collectives(program, hlo.entry(program), step.repeats)
    shapes = transformer.abstract_params(config.model)["layers"]
    layers = 2 * sum(x.size for name, x in jax.tree_util.tree_leaves_with_path(shapes) if x.ndim > 2)  # bf16
    # Two microbatches, forward and backward (what remat computes again uses what the backward pass gathers).
    sent = sum(size for kind, (_, size) in found.items() if kind in ("all-gather", "collective-permute"))
    assert 2 * 2 * layers <= sent <= 2 * 4 * layers + 2**28


def test_a_topology_that_is_none_is_refused_in_a_line():
    for name in ("v5e", "v9:2x2", "v5e:3x1000"):
        with pytest.raises(TopologyError) as error:
            topology(name)
        assert "\n" not in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(("name", "chips"), [("v5e:1x1", 1), ("v5p:1x1x1", 1), ("v4:1x1x1", 1), ("v4:2x2x1", 4)])
def test_a_device_is_a_chip_and_there_may_be_a_single_one(name, chips):
    assert len(topology(name)[1]) == chips


def test_data_is_split_over_slices_and_must_be_a_multiple_of_them():
    _, devices = topology("v5e:2x2", slices=2)
    assert len(devices) == 8
    mesh = make_mesh(2, 2, 2, devices)
    assert {len({device.slice_index for device in part.ravel()}) for part in mesh.devices} == {1}
    with pytest.raises(ValueError, match=r"data must be a multiple of the 2 slices, as in data=2 x fsdp=4 x tensor=1"):
        make_mesh(1, 8, 1, devices)


def test_the_command_writes_its_numbers_and_names_the_field_that_would_help(tmp_path):
    fields = [f"--config.{item}" for item in [*SMALL, "rollout.feed_width=1", "rollout.prefill=0"]]
    command = [sys.executable, "-m", "asyncthink_jax.compile", "--config", CONFIG, "--topology", "v5e:2x2"]

    def run(*more):
        done = subprocess.run([*command, *fields, *more], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    code, text = run("--steps", "reshard,decode", "--json", tmp_path / "report.json")
    assert code == 0, text
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"topology", "chips", "hbm_capacity_bytes", "fits", "steps"} <= set(report)
    assert report["chips"] == 4 and report["fits"] and set(report["steps"]) == {"reshard", "decode"}
    assert report["episodes_in_flight"] == 16 and report["cache_bytes"] == cache_on_a_chip()
    decode = report["steps"]["decode"]
    expected = {"hbm_bytes", "temporary_bytes", "fits", "flops", "bytes", "collectives", "roofline_s", "bound"}
    assert expected | {"compile_s"} <= set(decode)
    assert set(decode["collectives"]["all-reduce"]) == {"count", "bytes"}
    assert decode["bound"] == "memory"

    code, text = run("--steps", "decode", "--config.rollout.slots=4096")
    assert code == 1
    assert "DOES NOT FIT 15.75 GiB" in text
    assert re.search(r"^decode doesn't fit: [\d.]+ of 15.75 GiB; try fewer rollout.slots", text, re.MULTILINE)


def test_moments_can_be_half_as_large():
    step = {}
    for dtype in ("float32", "bfloat16"):
        config = load(CONFIG, [*SMALL, f"rl.momentum_dtype={dtype}"])
        built = experiment_on(config, experiment().mesh)
        step[dtype] = next(step for step in steps(built) if step.name == "decode").resident
    params = sum(x.size for x in jax.tree.leaves(transformer.abstract_params(experiment().model))) / 4
    assert step["float32"] - step["bfloat16"] == pytest.approx(2 * params, rel=0.01)
    assert dataclasses.asdict(config)["rl"]["momentum_dtype"] == "bfloat16"
