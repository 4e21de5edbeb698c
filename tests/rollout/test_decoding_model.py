"""The transformer under the engine: the cache may be split by role without changing an episode."""

import jax
import jax.numpy as jnp
import numpy as np

from asyncthink_jax.model import transformer
from asyncthink_jax.play.decoder import decoding_model
from asyncthink_jax.rollout.state import Where

CONFIG = transformer.ModelConfig(vocab_size=11, layers=2, width=16, heads=2, kv_heads=1, head_dim=8, mlp_width=32)
SLOTS, AGENTS, LENGTH, WORKER_LENGTH = 2, 3, 12, 6


def test_a_cache_of_its_own_for_the_workers_gives_the_same_logits():
    params = transformer.init(CONFIG, jax.random.key(0))
    rows = SLOTS * AGENTS
    tokens = np.random.default_rng(0).integers(0, 11, (rows, LENGTH))
    is_worker = np.arange(rows) % AGENTS > 0
    outputs = []
    for model in (decoding_model(CONFIG), decoding_model(CONFIG, AGENTS, WORKER_LENGTH)):
        cache = model.init_cache(rows, LENGTH)
        step = jax.jit(model.logits, static_argnums=5)
        seen = []
        for position in range(LENGTH):
            feeds = ~(is_worker & (position >= WORKER_LENGTH))  # a worker's row is full, the organizers go on
            at = jnp.asarray(np.where(feeds, position, -1)[:, None])
            where = Where(*(jnp.zeros(rows, jnp.int32),) * 3)
            last = jnp.zeros(rows, jnp.int32)
            logits, cache = step(params, cache, tokens[:, position, None], at, last, LENGTH, where)
            seen.append(np.where(feeds[:, None], logits, 0.0))
        outputs.append(np.stack(seen))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    sizes = [x.shape for x in jax.tree.leaves(decoding_model(CONFIG, AGENTS, WORKER_LENGTH).init_cache(rows, LENGTH))]
    assert set(sizes) == {(SLOTS, 1, LENGTH, 8), (SLOTS * (AGENTS - 1), 1, WORKER_LENGTH, 8)}
