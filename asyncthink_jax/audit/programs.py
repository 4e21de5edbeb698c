"""Every step of a run compiled ahead of time, for devices that need not be here: does it fit, and what limits it?

The programs are those of a run (`OptimizerStep`, `OldLogprobs`, `Experiment.reshard`, the engine's loop), lowered from
shapes alone. What a chip needs is what its compiler says; what a step has to compute and to move are formulas
(`audit/step_costs.py`); what chips send each other is counted in the compiled program (`audit/hlo.py`).
"""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from asyncthink_jax.audit import hlo
from asyncthink_jax.audit.chips import Chip
from asyncthink_jax.audit.step_costs import Cost, Costs
from asyncthink_jax.config import Config
from asyncthink_jax.data import packing
from asyncthink_jax.data.byte_tokenizer import ByteTokenizer
from asyncthink_jax.data.tokenizer import prompts_for
from asyncthink_jax.model.parameters import rollout_specs
from asyncthink_jax.parallel.mesh import platform_of
from asyncthink_jax.parallel.sharding import laid_out, row_spec
from asyncthink_jax.play.decoder import multiply_in_full
from asyncthink_jax.play.run_model import check_mesh
from asyncthink_jax.rollout.ahead import NARROW_STEP, lower_decode_loop, lower_prefill
from asyncthink_jax.training import grpo, sft
from asyncthink_jax.training.experiment import Experiment, build
from asyncthink_jax.training.logprobs import OldLogprobs
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.optimizer_step import OptimizerStep, abstract_state

STEPS = ("sft_step", "reshard", "prefill", "decode", "logprobs", "rl_step")


@dataclasses.dataclass(frozen=True)
class Step:
    """A program of a run.

    Attributes:
        name: one of STEPS. "decode" is the whole rollout, its numbers are of one engine step that decodes.
        lower: traces it.
        cost: of one run on one chip, by formulas.
        resident: bytes of a chip that hold what the program doesn't take: the state of training during a rollout, the
            reference of a KL penalty.
        remedy: what to change where it doesn't fit.
        scope: the named scope of the loop whose one pass is counted; None = the whole program.
        repeats: passes of a loop whose length only a run knows.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    cost: Cost
    resident: float
    remedy: str
    scope: str | None = None
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What is known of a step when it is compiled; sizes are bytes of one chip, times seconds."""

    name: str
    hbm_bytes: float  # all that is there while it runs: arguments, outputs, temporaries, and what else is resident
    argument_bytes: float
    temporary_bytes: float
    output_bytes: float  # without those that take an argument's place
    resident_bytes: float
    fits: bool
    flops: float
    bytes: float
    collectives: dict[str, dict[str, float]]  # kind -> count, bytes of results
    roofline_s: float
    bound: str  # the wall it hits: "compute", "memory" or "interconnect"
    compile_s: float
    remedy: str


def experiment_on(config: Config, mesh: Mesh) -> Experiment:
    """The experiment on a mesh of devices that needn't be here, with its tokenizer where that can be had.

    A released model's needn't be: with `model.vocab_size` set, a tokenizer of bytes stands in for it, since nothing of
    it but the number of rows goes into a program's shapes. Raises ConfigError as `build` does.
    """
    if not (config.pretrained and config.model.vocab_size):
        with tempfile.TemporaryDirectory() as folder:
            return build(config, Path(folder), mesh)
    check_mesh(config, config.model, mesh)
    multiply_in_full(config.model)
    tokenizer, grammar = ByteTokenizer(), config.grammar
    return Experiment(
        config=config,
        mesh=mesh,
        tokenizer=tokenizer,
        model=config.model,
        splits={},
        prompts=prompts_for(tokenizer, grammar),
        grammar=grammar,
        weights=None,
    )


def steps(experiment: Experiment, prompt_length: int | None = None) -> Iterator[Step]:
    """The programs of the run, in the order in which it needs them.

    `prompt_length`: tokens of a prompt; default what `rollout.context` leaves beside `rollout.organizer_budget`.
    """
    config, mesh = experiment.config, experiment.mesh
    dense, rollout = experiment.dense_model, config.rollout
    sizes = {axis: mesh.shape[axis] for axis in ("data", "fsdp", "tensor")}
    costs = Costs(dense, **sizes, trained=0.0 if experiment.model.lora.rank else 1.0)
    trained, frozen = experiment.abstract_params(), experiment.abstract_frozen()
    prompt = prompt_length or max(1, rollout.context - rollout.organizer_budget)
    rounds = -(-max(rollout.slots, config.rl.prompts * config.rl.group_size) // rollout.slots)
    rolled = jax.eval_shape(experiment.reshard, trained, frozen)
    rolled = laid_out(rolled, rollout_specs(rolled, mesh))
    reference = on_a_chip(trained) if config.rl.iterations and config.rl.kl else 0.0
    platforms, moments = (platform_of(mesh),), _moments(experiment, config) + reference

    def training(name: str, fields: Any, loss: Any, channels: dict[str, Any], total: int) -> Step:
        optimizer = make_optimizer(fields, max(1, total))
        step = OptimizerStep(loss, optimizer, mesh, fields.microbatches, frozen, fields.skip_nonfinite > 0)
        state = abstract_state(trained, optimizer, mesh)
        cost = costs.train_step(
            fields.rows, fields.row_length, fields.microbatches, jnp.dtype(fields.momentum_dtype).itemsize
        )
        batch = _batch(channels, fields.rows, fields.row_length, mesh)
        remedy = f"more {name[: name.index('_')]}.microbatches, model.remat=full, mesh.fsdp over more chips"
        return Step(name, lambda: step.lower(state, batch), cost, 0.0, remedy, repeats=fields.microbatches)

    if config.sft.steps:
        channels = packing.pack([_TRACE], config.sft.row_length, 1)[0]
        loss = sft.make_loss(experiment.model, config.sft)
        yield training("sft_step", config.sft, loss, channels, config.sft.steps)
    count = sum(x.size for x in jax.tree.leaves(rolled))
    yield Step(
        "reshard",
        lambda: experiment.reshard.trace(trained, frozen).lower(lowering_platforms=platforms),
        costs.reshard(count),
        moments,
        "mesh.tensor, mesh.fsdp over more chips",
    )
    training_state = moments + on_a_chip((trained, frozen))
    if rollout.prefill and prompt >= rollout.prefill:
        yield Step("prefill", lambda: lower_prefill(experiment.engine, rolled, prompt), costs.prefill(prompt),
                   training_state, "mesh.tensor")  # fmt: skip
    rows = experiment.engine.rows
    cached = (rollout.context + (rows - 1) * (rollout.worker_context or rollout.context)) / rows
    yield Step(
        "decode",
        lambda: lower_decode_loop(experiment.engine, rolled, rounds, prompt if rollout.prefill else 0),
        costs.decode_step(rollout.slots * rows, cached),
        training_state,
        "fewer rollout.slots or rollout.worker_rows, a shorter rollout.worker_context, mesh.tensor",
        NARROW_STEP,
    )
    if config.rl.iterations:
        fields = config.rl
        channels = packing.pack(grpo.imitated_rows(fields, [_TRACE]), fields.row_length, 1)[0]
        of_reference = {"reference_logprobs": channels["old_logprobs"]} if fields.kl else {}
        logprobs = OldLogprobs(
            experiment.model, fields.temperature, fields.loss_chunk, fields.microbatches, mesh, frozen
        )
        batch = _batch(channels, fields.rows, fields.row_length, mesh)
        yield Step("logprobs", lambda: logprobs.lower(trained, batch),
                   costs.logprobs(fields.rows, fields.row_length, fields.microbatches),
                   moments, "more rl.microbatches")  # fmt: skip
        loss = grpo.make_loss(experiment.model, fields)
        total = fields.iterations * fields.optimizer_steps
        step = training("rl_step", fields, loss, channels | of_reference, total)
        yield dataclasses.replace(step, resident=reference)


def cache_bytes(experiment: Experiment) -> float:
    """Bytes of a chip that hold the keys and values of a rollout."""
    rollout, engine = experiment.config.rollout, experiment.engine
    cache = jax.eval_shape(lambda: engine.model.init_cache(rollout.slots * engine.rows, rollout.context))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) / experiment.mesh.size


def compile_step(step: Step, chip: Chip) -> Compiled:
    """Compiles a step. Of one that its compiler refuses for lack of memory there is the least size alone."""
    started = time.monotonic()
    argument = temporary = output = 0.0
    collectives: dict[str, dict[str, float]] = {}
    try:
        compiled = step.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        used = hlo.memory_refused(str(error))
        if used is None:
            raise
        temporary = used
    else:
        memory = compiled.memory_analysis()
        assert memory is not None  # CPU, GPU and TPU compilers all tell
        argument, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        output = memory.output_size_in_bytes - memory.alias_size_in_bytes
        program = hlo.parse(compiled.as_text() or "")
        body = hlo.entry(program) if step.scope is None else hlo.loop_of_scope(program, step.scope)
        collectives = {
            kind: {"count": count, "bytes": size}
            for kind, (count, size) in hlo.collectives(program, body, step.repeats).items()
        }
    needed = argument + temporary + output + step.resident
    walls = {
        "compute": step.cost.flops / chip.flops,
        "memory": step.cost.bytes / chip.bandwidth,
        "interconnect": sent_bytes(collectives) / chip.interconnect,
    }
    bound = max(walls, key=lambda wall: walls[wall])
    return Compiled(
        name=step.name,
        hbm_bytes=needed,
        argument_bytes=argument,
        temporary_bytes=temporary,
        output_bytes=output,
        resident_bytes=step.resident,
        fits=needed <= chip.hbm,
        flops=step.cost.flops,
        bytes=step.cost.bytes,
        collectives=collectives,
        roofline_s=walls[bound],
        bound=bound,
        compile_s=time.monotonic() - started,
        remedy=step.remedy,
    )


def sent_bytes(collectives: Mapping[str, Mapping[str, float]]) -> float:
    """What a chip sends for them, by the bytes of their results: an all-reduce collects parts and spreads the whole."""
    return sum(one["bytes"] * (2 if kind == "all-reduce" else 1) for kind, one in collectives.items())


def on_a_chip(tree: Any) -> float:
    """Bytes of a tree of arrays, or of their shapes with shardings, on one device."""
    sizes = [math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)]
    return float(sum(sizes))


# A trace from which packing makes a batch with all its channels.
_TRACE = {"tokens": np.zeros(2, np.int32), "loss_weights": np.zeros(2, np.float32)}


def _batch(channels: dict[str, Any], rows: int, length: int, mesh: Mesh) -> Any:
    return {
        name: jax.ShapeDtypeStruct((rows, length), values.dtype, sharding=row_spec(mesh))
        for name, values in channels.items()
    }


def _moments(experiment: Experiment, config: Config) -> float:
    """Bytes of the optimizer's state on a chip while RL rolls out, or SFT evaluates."""
    fields = config.rl if config.rl.iterations else config.sft
    state = abstract_state(experiment.abstract_params(), make_optimizer(fields, 1), experiment.mesh)
    return on_a_chip(state.optimizer)
