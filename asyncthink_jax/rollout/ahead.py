"""The decode loop compiled ahead of time, also for devices that this machine does not have."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from asyncthink_jax.parallel.mesh import platform_of
from asyncthink_jax.parallel.sharding import ROWS, laid_out, replicated, row_spec
from asyncthink_jax.rollout.loop import Loop, step_scope
from asyncthink_jax.rollout.state import Queue

NARROW_STEP = step_scope(1)  # the named scope of a step in which every row feeds one token


def lower_decode_loop(engine: Loop, params: Any, rounds: int = 1, prompt_length: int = 0) -> jax.stages.Lowered:
    """The very program that `engine.run` would run on its mesh, from shapes alone; `.compile()` compiles it.

    Args:
        engine: with a mesh, whose devices may be those of `jax.experimental.topologies.get_topology_desc(..)`.
        params: `jax.ShapeDtypeStruct`s with the shardings of a rollout.
        rounds: prompts in the queues, in multiples of the slots.
        prompt_length: of the prompts that are read at once, 0 = none (see rollout/prefill.py).
    """
    mesh, limits = engine.mesh, engine.limits
    assert mesh is not None, "an engine without a mesh runs on this machine's first device; give it one"
    room = limits.slots * rounds
    place = lambda kind, *shape: jax.ShapeDtypeStruct((room, *shape), kind, sharding=row_spec(mesh))  # noqa: E731
    queue = Queue.empty(room, engine.shards)
    queue = laid_out(queue, row_spec(mesh))
    with jax.set_mesh(mesh):  # the cache's order is that of its devices
        state = jax.eval_shape(
            partial(engine._start, prompt_length=prompt_length),
            place(jnp.bool_),
            place(jnp.int32, limits.context),
            queue,
        )
    return engine.advance.trace(
        params,
        laid_out(state, engine.shardings(state)),
        queue,
        laid_out(jax.eval_shape(lambda: jax.random.key(0)), replicated(mesh)),
        jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh)),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh)),
        read_length=limits.context,
    ).lower(lowering_platforms=(platform_of(mesh),))


def lower_prefill(engine: Loop, params: Any, length: int) -> jax.stages.Lowered:
    """The prefill of one prompt of `length` tokens on each device of the data axes, as a program of its own."""
    mesh, read_prompt = engine.mesh, engine.model.prefill
    assert mesh is not None and read_prompt is not None
    read = jax.shard_map(
        lambda params, tokens: read_prompt(engine.model.prepare(params), tokens),
        mesh=mesh,
        in_specs=(P(), P(ROWS)),
        out_specs=P(ROWS),
        axis_names=set(ROWS),
        check_vma=False,
    )
    tokens = jax.ShapeDtypeStruct((engine.shards, length), jnp.int32, sharding=row_spec(mesh))
    return jax.jit(read).trace(params, tokens).lower(lowering_platforms=(platform_of(mesh),))
