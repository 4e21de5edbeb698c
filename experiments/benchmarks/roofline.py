"""The share of the machine's limit that a decode step reaches, at 16 and 128 rows, and where the rest goes.

The limit of a step is the larger of its FLOPs at the measured matmul rate and its bytes at the measured bandwidth:

    FLOPs   2 a weight and row, and 4 N H a row, layer and cached position (attention)
    bytes   every weight once, every key and value of the positions that are filled once

The step is the engine's own (plain sampling, a full context of 384). Its time is the difference of two runs that differ
only in decoded tokens. The parts are timed alone, in loops over the same rows on the same devices: the bare matrix
products, attention with its cache, the whole transformer, sampling. The rest of a step is the engine. `ours` is the
smaller of the two shares.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from asyncthink_jax.model import attention, transformer
from asyncthink_jax.model.cache import read, write
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.parallel.sharding import ROWS
from asyncthink_jax.rollout.sampling import sample, token_uniforms
from asyncthink_jax.rollout.state import Limits
from experiments.benchmarks.common import Time, arguments, in_turn, median, report, timed
from experiments.benchmarks.ours import Ours, ending_after

SHORT, LONG = 4, 36  # decoded tokens of the two runs


def main() -> None:
    flags = arguments(__doc__, rounds=5)
    context, loops = (64, 4) if flags.quick else (384, 64)
    machine = {
        "matmul_flops": matmul_rate(1024 if flags.quick else 2048),
        "bytes": bandwidth(2**20 if flags.quick else 2**28 if flags.platform == "gpu" else 2**26),
    }
    print(f"machine: {machine['matmul_flops'] / 1e9:.1f} GFLOP/s, {machine['bytes'] / 1e9:.1f} GB/s")
    shares, tables, times = {}, {}, {}
    for rows in (4, 8) if flags.quick else (16, 128):
        ours = Ours(flags.model, Limits(rows, context, LONG, 0, feed_width=min(64, context // 4)))
        prompts = ours.prompts([context - LONG] * rows)

        def run(tokens: int, ours=ours, prompts=prompts, shape=(rows, LONG)) -> Time:
            return timed(lambda: ours.run(prompts, ending_after([tokens] * shape[0], shape)))

        sides: dict[str, Callable[[], Time]] = {"short": lambda run=run: run(SHORT), "long": lambda run=run: run(LONG)}
        sides |= {name: lambda part=part: timed(part) for name, part in parts(ours, rows, context, loops).items()}
        here = in_turn(sides, flags.rounds)
        times |= {f"{rows} rows, {name}": values for name, values in here.items()}
        difference = median(here["long"]) - median(here["short"])
        step = max(difference, 1e-6) / (LONG - SHORT)  # in a smoke run it may be all noise
        part = {name: median(values) / loops for name, values in here.items() if name not in ("short", "long")}
        flops, moved = work(flags.model, rows, context)
        limit = max(flops / machine["matmul_flops"], moved / machine["bytes"])
        shares[rows] = limit / step
        tables[f"{rows} rows"] = {
            "limit": 1e3 * limit,
            "of it FLOPs": 1e3 * flops / machine["matmul_flops"],
            "of it bytes": 1e3 * moved / machine["bytes"],
            "step": 1e3 * step,
            "matrix products": 1e3 * part["matrix products"],
            "attention and cache": 1e3 * part["attention and cache"],
            "norms, rotations, rest of the transformer": 1e3
            * (part["transformer"] - part["matrix products"] - part["attention and cache"]),
            "sampling": 1e3 * part["sampling"],
            "engine": 1e3 * (step - part["transformer"] - part["sampling"]),
        }
        print(f"{rows} rows, ms a step:", {name: round(value, 3) for name, value in tables[f"{rows} rows"].items()})
    report(
        flags,
        "roofline",
        min(shares.values()),
        {},
        "share of the limit of a decode step",
        times,
        machine=machine,
        shares={f"{rows} rows": share for rows, share in shares.items()},
        milliseconds=tables,
        devices=len(jax.devices()),
    )


def matmul_rate(size: int) -> float:
    """FLOP/s of a square fp32 product, the best of several."""
    a = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / _best(lambda: product(a, a))


def bandwidth(count: int) -> float:
    """Bytes/s of reading and writing `count` fp32 numbers, the best of several."""
    x = jnp.ones((count,))
    copy = jax.jit(lambda x: x + 1)
    return 8 * count / _best(lambda: copy(x))


def _best(run: Callable[[], Any]) -> float:
    run().block_until_ready()
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        run().block_until_ready()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def work(config: ModelConfig, rows: int, positions: int) -> tuple[float, float]:
    """(FLOPs, bytes) that a decode step of `rows` rows needs, with so many cached positions each."""
    shapes = transformer.abstract_params(config)
    weights = sum(x.size for x in jax.tree.leaves(shapes))
    if not config.tied_embeddings:
        weights -= shapes["embed"].size  # only looked up
    cached = rows * positions * config.layers
    flops = 2 * weights * rows + 4 * cached * config.heads * config.head_dim
    return flops, 4 * (weights + 2 * cached * config.kv_heads * config.head_dim)


def parts(ours: Ours, rows: int, context: int, loops: int) -> dict[str, Callable[[], Any]]:
    """Parts of a step, each `loops` times in a jitted loop, on the rows' own devices like the engine."""
    config = ours.config
    params = transformer.unstacked(config, ours.params)
    heads = jnp.ones((rows, 1, config.heads, config.head_dim))
    news = jnp.ones((rows, 1, config.kv_heads, config.head_dim))
    position = jnp.full((rows, 1), context - 1, jnp.int32)

    def products(params, x):
        for layer in params["layers"]:
            dot = lambda x, name, layer=layer: jnp.tensordot(x, layer[name]["kernel"], x.ndim - 1)  # noqa: E731
            q, k, v = dot(x, "q"), dot(x, "k"), dot(x, "v")
            mixed = q + jnp.repeat(k + v, config.heads // config.kv_heads, axis=1)
            x = 1e-3 * jnp.tensordot(mixed, layer["o"]["kernel"], 2)
            x = 1e-3 * dot(dot(x, "gate") + dot(x, "up"), "down")
        return x + 1e-9 * transformer.logits(config, params, x)[:, :1]

    def attend(_, carry):
        q, cache = carry
        layers = []
        for layer in zip(cache["k"], cache["v"], strict=True):
            own = position[: q.shape[0]]
            layer = write(layer, own, [news[: q.shape[0]]] * 2)
            q = read(layer, own, None, partial(attention.cached, q, positions=own))
            layers.append(layer)
        return q, {"k": tuple(layer[0] for layer in layers), "v": tuple(layer[1] for layer in layers)}

    def decode(params, carry):
        token, cache = carry
        hidden, (cache,) = transformer.decode(config, params, (cache,), token, position[: token.shape[0]])
        logits = transformer.logits(config, params, hidden[:, 0])
        return (logits[:, :1] > 0).astype(jnp.int32), cache

    def draw(_, carry):
        token, logits = carry
        row = jnp.arange(token.shape[0])
        uniforms = token_uniforms(jax.random.key(0), row, row, token)
        return sample(logits + 1e-6 * token[:, None], uniforms, jnp.float32(1.0))[0], logits

    cache = lambda: transformer.init_cache(config, rows, context)  # noqa: E731
    bodies = {
        "matrix products": (products, jnp.ones((rows, config.width))),
        "attention and cache": (attend, (heads, cache())),
        "transformer": (decode, (jnp.zeros((rows, 1), jnp.int32), cache())),
        "sampling": (draw, (jnp.zeros((rows,), jnp.int32), jnp.ones((rows, config.vocab_size)))),
    }

    def looped(body: Callable[[Any, Any], Any], carry: Any) -> Callable[[], Any]:
        loop = jax.shard_map(
            lambda params, carry: jax.lax.fori_loop(0, loops, lambda _, x: body(params, x), carry),
            mesh=ours.mesh,
            in_specs=(P(), P(ROWS)),
            out_specs=P(ROWS),
            axis_names=set(ROWS),
            check_vma=False,
        )
        run = jax.jit(loop, donate_argnums=1)
        held = [jax.device_put(carry, NamedSharding(ours.mesh, P(ROWS)))]

        def again() -> None:
            held[0] = jax.block_until_ready(run(params, held[0]))

        return again

    return {name: looped(*body) for name, body in bodies.items()}


if __name__ == "__main__":
    main()
