"""The compiled loop writes the cache in place: nothing beside it is as large."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from organizing import CONFIG, POOL, organizing_params

from asyncthink_jax.play.decoder import decoding_model
from asyncthink_jax.rollout.state import Queue

CONTEXT = 2048


@pytest.mark.parametrize("pool", [{"feed_width": 1}, {"feed_width": 4, "prefill": 64}], ids=["narrow", "wide"])
def test_the_loop_holds_no_second_copy_of_the_cache(pool):
    sizes = {"context": CONTEXT, "worker_context": None, "organizer_budget": 1000, "worker_budget": 1000}
    pool = dataclasses.replace(POOL, **sizes, **pool)
    engine = pool.engine(decoding_model(CONFIG))
    queue, temperature = Queue.empty(pool.slots, 1), jnp.float32(1)
    start = functools.partial(engine._start, prompt_length=256 if pool.prefill else 0)
    prompts = jax.ShapeDtypeStruct((pool.slots, CONTEXT), jnp.int32)
    state = jax.eval_shape(start, jax.ShapeDtypeStruct((pool.slots,), bool), prompts, queue)
    lowered = engine.advance.lower(
        organizing_params(), state, queue, jax.random.key(0), temperature, jnp.int32(8), read_length=CONTEXT
    )
    memory = lowered.compile().memory_analysis()
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.cache))
    assert memory.alias_size_in_bytes > cache  # donated: the cache that goes in is the one that comes out
    assert memory.temp_size_in_bytes < 0.3 * cache
