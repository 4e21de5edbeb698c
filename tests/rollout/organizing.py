"""A random transformer that forks and joins, by a trick: no training, but episodes with everything in them.

Its unembedding is chosen so that the logits follow from the last token alone what usually comes after it; random layers
add what the rest of the context does to them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scripted import FORKS, Pool, episode_of

from asyncthink_jax.data import packing
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.play.decoder import decoding_model
from asyncthink_jax.protocol.episode import Episode
from asyncthink_jax.protocol.grammar import tag_literals
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.rollout.sampling import token_uniforms

IDS = range(1, FORKS + 1)
WORDS = ["solve", "=", "work", ":", " a", " w", " r", " s", *(f" b{i}" for i in IDS)]
VOCABULARY = (*(text.encode() for text in [*tag_literals(FORKS), *WORDS]), b"")
CONFIG = ModelConfig(
    vocab_size=len(VOCABULARY),
    layers=2,
    width=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    mlp_width=96,
    tied_embeddings=False,
)
POOL = Pool(
    agents=4,
    slots=8,
    context=64,
    worker_context=22,
    organizer_budget=44,
    worker_budget=16,
    feed_width=4,
    vocabulary=VOCABULARY,
)

# What follows what, how often. An organizer's text is " a", a worker's " w", a sub-query's " b1", a takeaway's " r".
FOLLOWS = {
    "=": {"<FORK-1>": 6, "<FORK-2>": 2, " a": 2},
    " a": {" a": 5, "<ANSWER>": 1, **{f"<FORK-{i}>": 1 for i in IDS}, **{f"<JOIN-{i}>": 1 for i in IDS}},
    ":": {" w": 9, "<RETURN>": 1},
    " w": {" w": 7, "<RETURN>": 2},
    "<RETURN>": {" r": 8, "</RETURN>": 2},
    " r": {" r": 5, "</RETURN>": 5},
    "<ANSWER>": {" s": 8, "</ANSWER>": 2},
    " s": {" s": 5, "</ANSWER>": 5},
    **{f"<FORK-{i}>": {f" b{i}": 8, f"</FORK-{i}>": 2} for i in IDS},
    **{f" b{i}": {f" b{i}": 5, f"</FORK-{i}>": 5} for i in IDS},
    **{f"</FORK-{i}>": {" a": 5, f"<JOIN-{i}>": 3, f"<FORK-{i % FORKS + 1}>": 4} for i in IDS},
    **{f"</JOIN-{i}>": {" a": 4, "<ANSWER>": 2, **{f"<JOIN-{j}>": 2 for j in IDS if j != i}} for i in IDS},
}


@functools.cache
def organizing_params() -> Params:
    params = transformer.init(CONFIG, jax.random.key(0))
    rng = np.random.default_rng(0)
    embed = rng.standard_normal((CONFIG.vocab_size, CONFIG.width))
    wanted = np.full((CONFIG.vocab_size, CONFIG.vocab_size), 0.005)
    token = {text.decode(): t for t, text in enumerate(VOCABULARY)}
    for before, following in FOLLOWS.items():
        for after, share in following.items():
            wanted[token[before], token[after]] = share
    hidden = embed / np.sqrt(np.mean(embed**2, axis=1, keepdims=True))
    return {
        **params,
        "embed": jnp.asarray(embed, jnp.float32),
        "layers": jax.tree.map(lambda x: x * 0.1 / x.std() if x.ndim > 2 else x, params["layers"]),
        "unembed": jnp.asarray(np.linalg.lstsq(hidden, np.log(wanted), rcond=None)[0], jnp.float32),
    }


def prompts(n):
    """n prompts of different lengths and tokens."""
    rng = np.random.default_rng(1)
    words = POOL.encode(" a b1 b2 b3")
    return [[*POOL.encode("solve"), *rng.choice(words, rng.integers(0, 7)), *POOL.encode("=")] for _ in range(n)]


@functools.cache
def engine(slots=8, feed_width=4, mesh=None, split_cache=False, prefill=0, agents=POOL.agents, worker_rows=None):
    """`split_cache`: workers' rows have a cache of their own, which is shorter."""
    changes = {"slots": slots, "feed_width": feed_width, "prefill": prefill, "agents": agents}
    pool = dataclasses.replace(POOL, worker_rows=worker_rows, **changes)
    rows = pool.limits.rows_of_slot(agents)
    model = decoding_model(CONFIG, rows, pool.worker_context) if split_cache else decoding_model(CONFIG)
    return pool.quick_engine(model, mesh)


KEY = jax.random.key(7)


@functools.cache
def run(engine, episode_ids, temperature=1.0, one_prompt=False) -> Rollout:
    """The episodes of these numbers, in this order; each has its own prompt, unless all have that of episode 0."""
    all_prompts = prompts(1) * (max(episode_ids) + 1) if one_prompt else prompts(max(episode_ids) + 1)
    return engine.run(
        organizing_params(),
        [all_prompts[n] for n in episode_ids],
        KEY,
        temperature,
        episode_ids=list(episode_ids),
    )


def episodes(rollout: Rollout) -> list[Episode]:
    return [episode_of(rollout, n, VOCABULARY) for n in range(len(rollout))]


@jax.jit
def _shares(params, tokens, positions, segment_ids):
    """The shares of [0, 1) at whose random numbers each token is drawn: where it begins, and where it ends."""
    hidden = transformer.forward(CONFIG, params, tokens, positions, segment_ids)
    shares = jnp.cumsum(jax.nn.softmax(transformer.logits(CONFIG, params, hidden[:, :-1])), axis=-1)
    shares = jnp.pad(shares, ((0, 0), (1, 0), (1, 0)))
    return [jnp.take_along_axis(shares, tokens[..., None] + n, axis=-1)[..., 0] for n in (0, 1)]


def settled(rollout: Rollout, episode_ids) -> np.ndarray:
    """Which episodes are the same for every program that computes them, at temperature 1, however it rounds.

    Two programs agree on a probability up to 1e-6 or so. Now and then the random number of a token is closer than 1e-5
    to where another token's share begins: of such an episode no test may say how it goes on.
    """
    rows = []
    for n, episode in enumerate(episodes(rollout)):
        for trace in episode.traces:
            tokens = np.concatenate([trace.prompt, trace.tokens])
            drawn = np.concatenate([np.zeros(len(trace.prompt), bool), trace.sampled])
            whose = {"episode": n, "trace": trace.fork_id or 0}
            rows.append({"tokens": tokens, "drawn": drawn, **{k: np.full(len(tokens), v) for k, v in whose.items()}})
    batch, left_out = packing.pack(rows, row_length=128, rows=48)
    assert not left_out
    begin, end = _shares(organizing_params(), batch["tokens"], batch["positions"], batch["segment_ids"])
    number = np.array(episode_ids)[batch["episode"].ravel()]
    at = (jnp.asarray(x.ravel()) for x in (number, batch["trace"], batch["positions"]))
    uniforms = np.asarray(token_uniforms(KEY, *at)).reshape(begin.shape)
    room = np.minimum(uniforms - begin, end - uniforms)
    assert np.all(room[batch["drawn"]] > -1e-4)
    closest = np.full(len(rollout), np.inf)
    np.minimum.at(closest, batch["episode"][batch["drawn"]], room[batch["drawn"]])
    assert np.mean(closest > 1e-5) > 0.8
    return closest > 1e-5
