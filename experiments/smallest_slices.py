"""The smallest TPU slices on which models of the Qwen3 family train, found by compiling for them; no TPU is needed.

    python -m experiments.smallest_slices            # all that experiments/results/smallest_slices.json lacks
    python -m experiments.smallest_slices --models Qwen3-4B --chips v5e,v6e

For each model and chip, slices are tried upwards from the smallest whose memory could hold the parts by their sizes.
The config is experiments/countdown_qwen3.py with these changes: enough microbatches to have one row on each chip;
`mesh.tensor` 4, or 8 if a quarter of the weights doesn't leave half of a chip's memory; and the largest number of
episodes in flight, up to 512, whose cache takes at most half of the memory left. Results are kept in the JSON file, so
a stopped run continues. It takes hours on two cores.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from asyncthink_jax.audit.chips import CHIPS, topology
from asyncthink_jax.audit.programs import compile_step, experiment_on, steps
from asyncthink_jax.config import Config, ConfigError, MeshConfig, experiment_file
from asyncthink_jax.files import replace_text
from asyncthink_jax.model import transformer
from asyncthink_jax.model.presets import PRESETS
from asyncthink_jax.parallel.mesh import make_mesh

HERE = Path(__file__).resolve().parent
FILE = HERE / "results" / "smallest_slices.json"
MODELS = ("Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B", "Qwen3-14B", "Qwen3-32B")
PLANAR = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SHAPES = {"v5e": PLANAR, "v6e": PLANAR, "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")}
STAGES = {"sft": ("sft_step",), "rl": ("reshard", "decode", "logprobs", "rl_step")}
MOST_EPISODES = 512  # in flight


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", default=",".join(MODELS), help="presets, separated by commas")
    parser.add_argument("--chips", default=",".join(SHAPES))
    parser.add_argument("--stages", default=",".join(STAGES))
    flags = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # this machine only compiles
    for model in flags.models.split(","):
        for stage in flags.stages.split(","):
            for chip in flags.chips.split(","):
                key = f"{model} {stage} {chip}"
                if key in load():
                    continue
                found = smallest(model, stage, chip)
                FILE.parent.mkdir(exist_ok=True)
                replace_text(FILE, json.dumps(load() | {key: found}, indent=1) + "\n")  # another process may add too


def load() -> dict[str, Any]:
    """The results so far: "model stage chip" -> slice, chips, mesh, episodes in flight, GiB of each step."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def smallest(model: str, stage: str, chip: str) -> dict[str, Any]:
    """The first slice on which every step of the stage fits."""
    for shape in SHAPES[chip]:
        name = f"{chip}:{shape}"
        _, devices = topology(name)
        config = config_for(model, chip, len(devices), stage)
        if config is None:
            print(f"{model} {stage} {name}: too small by its parts' sizes", flush=True)
            continue
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
        try:
            experiment = experiment_on(config, mesh)
        except ConfigError as error:
            print(f"{model} {stage} {name}: {error}", flush=True)
            continue
        done, fits = {}, True
        for step in steps(experiment):
            if step.name in STAGES[stage] and fits:
                one = compile_step(step, CHIPS[chip])
                done[step.name] = {"gib": round(one.hbm_bytes / 2**30, 2), "compile_s": round(one.compile_s)}
                fits = one.fits
                print(f"{model} {stage} {name} {step.name}: {done[step.name]} fits: {fits}", flush=True)
        if fits:
            slots = config.rollout.slots if stage == "rl" else None
            return {"slice": name, "chips": len(devices), "mesh": dict(mesh.shape), "slots": slots, "steps": done}
    return {"slice": None}


def config_for(model: str, chip: str, chips: int, stage: str) -> Config | None:
    """The config of a slice; None where the parts alone, without any temporary, are larger than its chips."""
    base = experiment_file(HERE / "countdown_qwen3.py")
    sizes = dataclasses.replace(PRESETS[model], dtype="bfloat16", remat="full")
    params = sum(x.size for x in jax.tree.leaves(transformer.abstract_params(sizes)))
    hbm = CHIPS[chip].hbm
    tensor = 4 if 2 * params / 4 <= hbm / 2 else 8
    shards = chips // tensor
    if shards == 0:
        return None
    state = 12 * params / chips  # fp32 parameters and two moments
    left = hbm - state - (2 * params / tensor if stage == "rl" else 4 * params / chips)  # else: gradients
    rollout = base.rollout
    positions = rollout.context + (base.pool.agents - 1) * rollout.worker_context
    slot = 4 * positions * sizes.layers * sizes.kv_heads * sizes.head_dim / tensor  # bytes of an episode's cache
    slots = shards * min(int(left // 2 // slot), MOST_EPISODES // shards) if left > 0 else 0
    if left <= 0 or (stage == "rl" and slots == 0):
        return None
    return dataclasses.replace(
        base,
        pretrained=f"Qwen/{model}",
        model=sizes,
        mesh=MeshConfig(data=1, fsdp=-1, tensor=tensor),
        rollout=dataclasses.replace(rollout, slots=max(slots, shards)),
        sft=dataclasses.replace(base.sft, microbatches=max(1, base.sft.rows // shards)),
        rl=dataclasses.replace(base.rl, microbatches=max(1, base.rl.rows // shards)),
    )


def markdown() -> str:
    """The table: a line for each model and stage, a column for each chip."""
    found = load()

    def cell(key: str) -> str:
        one = found.get(key)
        if one is None:
            return "not compiled yet"
        if one["slice"] is None:
            return f"more than {SHAPES[key.split()[2]][-1]}"
        most = max(step["gib"] for step in one["steps"].values())
        flying = f", {one['slots']} episodes" if one["slots"] else ""
        return f"{one['slice'].partition(':')[2]} ({one['chips']} chips{flying}): {most:.1f} GiB"

    lines = ["| model | stage | " + " | ".join(f"{chip}, {CHIPS[chip].hbm / 2**30:.2f} GiB" for chip in SHAPES) + " |"]
    lines.append("|---|---|" + "---|" * len(SHAPES))
    for model in MODELS:
        for stage in STAGES:
            cells = [cell(f"{model} {stage} {chip}") for chip in SHAPES]
            lines.append(f"| {model} | {stage.upper()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
