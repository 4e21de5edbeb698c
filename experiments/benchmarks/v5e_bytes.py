"""Bytes a decode step of Qwen3-4B moves on four v5e chips, in the program compiled for them. No TPU is needed.

Mesh 2x2, tensor 4; 8 episodes of 4 agents (32 rows), contexts of 2048 tokens, bf16. Each chip has to move its quarter
of the weights, and of the cache of 32 full rows. The bytes moved are the traffic with HBM of one narrow step in the
compiled program, counted by asyncthink_jax/audit/hlo.py. A ratio of 1.0 would mean that nothing is moved twice, and
nothing else.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp

from asyncthink_jax.audit import hlo
from asyncthink_jax.audit.chips import topology
from asyncthink_jax.model import transformer
from asyncthink_jax.model.parameters import rollout_specs
from asyncthink_jax.model.presets import PRESETS
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.parallel.sharding import laid_out
from asyncthink_jax.rollout.ahead import NARROW_STEP, lower_decode_loop
from asyncthink_jax.rollout.state import Limits
from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.ours import Ours

TOPOLOGY, TENSOR, SLOTS, AGENTS, CONTEXT = "v5e:2x2", 4, 8, 4, 2048


def main() -> None:
    flags = arguments(__doc__, rounds=1)
    flags.model = dataclasses.replace(PRESETS["Qwen3-4B"], dtype="bfloat16")
    if flags.quick:
        flags.model = dataclasses.replace(flags.model, layers=2, vocab_size=8192)
    mesh = make_mesh(tensor=TENSOR, devices=topology(TOPOLOGY)[1])
    ours = Ours(flags.model, Limits(SLOTS, CONTEXT, CONTEXT, CONTEXT), AGENTS, mesh=mesh, scripted=False)
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), transformer.abstract_params(flags.model)
    )
    layers = jax.eval_shape(functools.partial(transformer.unstacked, flags.model), params)  # as of a rollout
    started = time.monotonic()
    compiled = lower_decode_loop(ours.engine, laid_out(layers, rollout_specs(layers, mesh))).compile()
    seconds = time.monotonic() - started
    program = hlo.parse(compiled.as_text())
    body = hlo.loop_of_scope(program, NARROW_STEP)
    moved = hlo.traffic(program, body)
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / TENSOR  # noqa: E731
    weights = size(params)
    cache = size(jax.eval_shape(lambda: transformer.init_cache(flags.model, SLOTS * AGENTS, CONTEXT)))
    memory = compiled.memory_analysis()
    report(
        flags,
        "v5e_bytes",
        moved.total / (weights + cache),
        {},
        "bytes moved by a step of Qwen3-4B on v5e 2x2, per byte of weights and cache",
        1,
        bytes={"weights": weights, "cache": cache, "read": moved.read, "written": moved.written},
        by_opcode=dict(moved.by_opcode.most_common(8)),
        collectives={kind: {"count": n, "bytes": b} for kind, (n, b) in hlo.collectives(program, body).items()},
        memory={"arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes},
        compile_seconds=seconds,
    )


if __name__ == "__main__":
    main()
