"""Compiles every step of a run for TPUs that needn't be here: does it fit, what limits it, which field would help?

    python -m asyncthink_jax.compile --config experiments/countdown_qwen3.py --topology v5e:8x8
    python -m asyncthink_jax.compile --config .. --topology v5p:4x4x4 --json report.json --config.mesh.fsdp=16
    python -m asyncthink_jax.compile --config .. --topology v6e:4x4 --slices 2 --steps decode,rl_step

Needs the TPU compiler (pip install 'asyncthink_jax[tpu]'), no TPU and no weights. All numbers are of one chip: memory
as the compiler says, FLOPs and bytes by the formulas of audit/step_costs.py, collectives as counted in the compiled
program, time by the roofline of the three (peak rates, so a run takes longer). A rollout's are of one decoding step of
the engine. Exit codes: 0 all steps fit, 1 one does not (the fields to change are named), 2 for bad input (one line).
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from absl import flags, logging

from asyncthink_jax import command
from asyncthink_jax.config import ConfigError, load
from asyncthink_jax.files import replace_text
from asyncthink_jax.shown import complain

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Python file with get_config(), or the config.json of a run.")
flags.DEFINE_string("topology", None, "Chip and shape of a slice, such as v5e:8x8, v6e:4x4 or v5p:4x4x4.")
flags.DEFINE_integer("slices", 1, "Number of slices; mesh.data is split over them.")
flags.DEFINE_string("json", None, "File that the numbers are written to.")
flags.DEFINE_list("steps", None, "Only these steps; default all.")
flags.DEFINE_integer("prompt_length", None, "Tokens of a prompt; default what the context leaves beside the budget.")


def main(argv: list[str], overrides: list[str]) -> int:
    """Runs the command; returns its exit code."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options start with --")
        for name in ("config", "topology"):
            if getattr(FLAGS, name) is None:
                raise ConfigError(f"--{name} is missing; see --help")
        report = Path(FLAGS.json) if FLAGS.json else None
        if report and not report.resolve().parent.is_dir():
            raise ConfigError(f"--json {report}: its folder does not exist")
        if report and report.is_dir():
            raise ConfigError(f"--json {report} is a folder; name a file")
        return _compile(overrides, report)
    except (ConfigError, FileNotFoundError) as error:
        complain(f"error: {error}")
        return 2


def _compile(overrides: list[str], report: Path | None) -> int:
    config = load(FLAGS.config, overrides)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this machine has nothing to do but compile
    # Imported late, so that a wrong config is reported sooner.
    from asyncthink_jax.audit.chips import TopologyError, topology, wrong_compiler
    from asyncthink_jax.audit.programs import STEPS, cache_bytes, compile_step, experiment_on, steps
    from asyncthink_jax.parallel.mesh import make_mesh

    unknown = [name for name in FLAGS.steps or () if name not in STEPS]
    if unknown:
        raise ConfigError(f"--steps {unknown[0]}: must be of {', '.join(STEPS)}")
    try:
        chip, devices = topology(FLAGS.topology, FLAGS.slices)
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    except (TopologyError, ValueError) as error:
        raise ConfigError(str(error)) from error
    experiment = experiment_on(config, mesh)
    print(_header(len(devices), chip, mesh), flush=True)
    if FLAGS.slices > 1:
        print("bound: as if all chips were linked; the network between slices is slower, and not in it", flush=True)
    done: list[Any] = []
    try:
        for step in steps(experiment, FLAGS.prompt_length):
            if not FLAGS.steps or step.name in FLAGS.steps:
                done.append(compile_step(step, chip))
                print(_line(done[-1], chip), flush=True)
    except Exception as error:  # a compiler of another version fails in many ways
        if (wrong := wrong_compiler()) is None or isinstance(error, OSError):
            raise
        raise ConfigError(f"{wrong} ({' '.join(str(error).split())[:200]})") from error
    fits = all(one.fits for one in done)
    if report:
        told = {"name", "remedy"}  # as the key, and in the line at the end
        numbers = {
            "topology": FLAGS.topology,
            "slices": FLAGS.slices,
            "chips": len(devices),
            "mesh": dict(mesh.shape),
            "hbm_capacity_bytes": chip.hbm,
            "episodes_in_flight": config.rollout.slots,
            "cache_bytes": cache_bytes(experiment),
            "fits": fits,
            "steps": {one.name: {k: v for k, v in dataclasses.asdict(one).items() if k not in told} for one in done},
        }
        replace_text(report, json.dumps(numbers, indent=2) + "\n")
    for one in done:
        if not one.fits:
            print(f"{one.name} doesn't fit: {_gib(one.hbm_bytes)} of {_gib(chip.hbm)} GiB; try {one.remedy}")
    return 0 if fits else 1


def _header(chips: int, chip: Any, mesh: Any) -> str:
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    columns = f"{'step':<10}{'HBM GiB':>9}{'args':>8}{'temp':>8}{'other':>8}  {'TFLOP':>9}{'GB':>9}{'sent GB':>9}"
    return (
        f"{FLAGS.topology}: {chips} chips of {_gib(chip.hbm)} GiB, mesh {axes}\n"
        f"{columns}{'roofline':>12}  {'bound':<13}{'compiled in':>11}"
    )


def _line(one: Any, chip: Any) -> str:
    from asyncthink_jax.audit.programs import sent_bytes

    sent = sent_bytes(one.collectives)
    other = one.output_bytes + one.resident_bytes
    line = (
        f"{one.name:<10}{_gib(one.hbm_bytes):>9}{_gib(one.argument_bytes):>8}{_gib(one.temporary_bytes):>8}"
        f"{_gib(other):>8}  {one.flops / 1e12:>9.3g}{one.bytes / 1e9:>9.3g}{sent / 1e9:>9.3g}"
        f"{1e3 * one.roofline_s:>9.3g} ms  {one.bound:<13}{one.compile_s:>9.0f} s"
    )
    kinds = ", ".join(f"{round(k['count'])} {kind} {k['bytes'] / 1e9:.3g} GB" for kind, k in one.collectives.items())
    note = "" if one.fits else f"  DOES NOT FIT {_gib(chip.hbm)} GiB"
    return line + note + (f"\n{'':<10}{kinds}" if kinds else "")


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


if __name__ == "__main__":
    command.run(main)
