"""Scripted agents on the engine and on its reference, and what it means that both give the same episode."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from scripts import WORDS, encode

from asyncthink_jax.protocol import interpreter
from asyncthink_jax.protocol.episode import Episode
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.wire import Wire
from asyncthink_jax.rollout.engine import Engine
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.rollout.state import DecodingModel, Limits

FORKS = 3


@dataclasses.dataclass(frozen=True)
class Pool:
    """All that an engine is compiled for, beside the model."""

    agents: int
    organizer_budget: int = 64
    worker_budget: int = 64
    context: int = 64
    worker_context: int | None = None
    worker_rows: int | None = None
    prefix: int = 1  # tokens of a worker's prompt before its sub-query
    eos: bool = True
    other_stops: tuple[int, ...] = ()
    feed_width: int = 1
    prefill: int = 0
    wide_at: float = 0.0
    min_workers: int = 0
    slots: int = 16
    forks: int = FORKS
    vocabulary: tuple[bytes, ...] = tuple(WORDS)

    @property
    def eos_id(self) -> int | None:
        return self.vocabulary.index(b"") if self.eos else None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (*self.other_stops, *([] if self.eos_id is None else [self.eos_id]))

    def encode(self, text: str) -> list[int]:
        return encode(text, self.vocabulary)

    @property
    def grammar(self) -> Grammar:
        return Grammar(self.agents, self.forks)

    @property
    def wire(self) -> Wire:
        return Wire(
            self.grammar,
            self.vocabulary,
            worker_prefix=self.encode(" a" * self.prefix),
            worker_suffix=self.encode(":"),
            close_join={i: self.encode(f"</JOIN-{i}>") for i in range(1, self.forks + 1)},
            stop_ids=self.stop_ids,
        )

    @property
    def limits(self) -> Limits:
        return Limits(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)})

    def engine(self, model: DecodingModel, mesh: jax.sharding.Mesh | None = None, **options) -> Engine:
        return Engine(model, self.wire, self.limits, mesh=mesh, **options)

    def scripted_engine(self, one_bucket: bool = True) -> Engine:
        """An engine whose agents write what a table says."""
        return self.quick_engine(scripted_model(len(self.vocabulary)), one_bucket=one_bucket)

    def quick_engine(
        self, model: DecodingModel, mesh: jax.sharding.Mesh | None = None, one_bucket: bool = True, **options
    ) -> Engine:
        """An engine that compiles in half the time: its code, not the fastest, runs for a moment only.

        `one_bucket`: attention always reads the whole cache, so that there is one program and not one a bucket.
        """
        engine = self.engine(model, mesh, whole_cache=one_bucket, **options)
        quick = {"xla_backend_optimization_level": 0}
        engine.advance = jax.jit(
            engine._advance, static_argnames="read_length", donate_argnums=1, compiler_options=quick
        )
        return engine


@dataclasses.dataclass(frozen=True)
class Script:
    """What the agents of one episode write, over and over: organizer first, then the workers of FORK-1, 2, .."""

    prompt: list[int]
    tokens: list[list[int]]


# ------------------------------------------------------------------------------------------------- the scripted model


MIX = np.uint32(2654435761)


def digest(known):
    """A number that depends on every known token and its place."""
    places = np.arange(1, len(known) + 1, dtype=np.uint32) * MIX | np.uint32(1)
    return np.sum((np.array(known, np.uint32) + np.uint32(1)) * places, dtype=np.uint32)


def scripted_model(vocabulary_size: int) -> DecodingModel:
    """Decodes the tokens of a table, but a wrong one where what it was fed is not what the interpreter's model read.

    Its "cache" holds the fed tokens themselves. Parameters: `script` [E, T, N], `read` uint32[E, T, N] and `known`
    bool[E, T, N]: the digest of what must have been fed before each token, where the interpreter came that far.
    """

    def logits(params, cache, tokens, positions, last, read_length, where):
        rows = jnp.arange(tokens.shape[0])[:, None]
        cache = cache.at[rows, jnp.where(positions < 0, cache.shape[1], positions)].set(tokens, mode="drop")
        fed = jnp.arange(read_length) <= jnp.max(positions, axis=1, keepdims=True)
        terms = (cache[:, :read_length].astype(jnp.uint32) + 1) * (
            jnp.arange(1, read_length + 1, dtype=jnp.uint32) * MIX | 1
        )
        at = (where.episode, where.trace, where.decoded)
        right = ~params["known"][at] | (params["read"][at] == jnp.sum(jnp.where(fed, terms, 0), axis=1))
        token = jnp.where(right, params["script"][at], (params["script"][at] + 1) % vocabulary_size)
        return jax.nn.one_hot(token, vocabulary_size), cache

    return DecodingModel(lambda rows, length: jnp.zeros((rows, length), jnp.int32), logits)


# --------------------------------------------------------------------------------------------- both sides of the tests


def interpret(pool: Pool, script: Script) -> tuple[Episode, dict[tuple[int, int], np.uint32]]:
    """The episode by the interpreter, and the digest of what was known before the n-th token of each trace."""
    read: dict[tuple[int, int], np.uint32] = {}
    decoded: Counter[int] = Counter()

    def next_token(trace, known):
        n = decoded[trace]
        read[trace, n] = digest(known)
        decoded[trace] += 1
        return script.tokens[trace][n % len(script.tokens[trace])]

    episode = interpreter.run(
        pool.wire,
        script.prompt,
        next_token,
        pool.organizer_budget,
        pool.worker_budget,
        pool.context,
        pool.worker_context,
    )
    return episode, read


def table_of(pool: Pool, scripts: list[Script], reads: Sequence[dict[tuple[int, int], np.uint32]]):
    """The scripted model's parameters."""
    shape = (len(scripts), pool.forks + 1, pool.context + 1)
    table = {"script": np.zeros(shape, np.int32), "read": np.zeros(shape, np.uint32), "known": np.zeros(shape, bool)}
    for n, (script, read) in enumerate(zip(scripts, reads, strict=True)):
        for trace, tokens in enumerate(script.tokens):
            table["script"][n, trace] = np.resize(tokens, shape[2])
        for (trace, place), value in read.items():
            table["read"][n, trace, place], table["known"][n, trace, place] = value, True
    return table


def on_engine(engine: Engine, pool: Pool, scripts: list[Script], reads) -> Rollout:
    """The same episodes by the engine, all in one call."""
    prompts = [script.prompt for script in scripts]
    return engine.run(table_of(pool, scripts, reads), prompts, jax.random.key(0), temperature=0.0)


def read_lengths(engine: Engine, patch: pytest.MonkeyPatch) -> list[int]:
    """The lengths that the cache is read to from now on, one for each call of the loop."""
    advance, read = engine.advance, []

    def recording(*arguments, read_length):
        read.append(read_length)
        return advance(*arguments, read_length=read_length)

    patch.setattr(engine, "advance", recording)
    return read


def episode_of(rollout: Rollout, n: int, vocabulary: Sequence[bytes]) -> Episode:
    """Episode n, with what the interpreter says of an episode."""
    return rollout.episode(n, vocabulary)


def facts(episode: Episode) -> dict:
    """All that is said about an episode, in a form that compares and prints well."""
    return {
        "traces": [
            {
                "who": (trace.role, trace.fork_id),
                "prompt": trace.prompt.tolist(),
                "tokens": trace.tokens.tolist(),
                "sampled": trace.sampled.tolist(),
                "steps": trace.steps.tolist(),
                "events": [dataclasses.astuple(event) for event in trace.events],
                "end": trace.end,
            }
            for trace in episode.traces
        ],
        "answer": episode.answer,
        "format_error": episode.format_error,
        "critical_path": episode.critical_path,
        "concurrency": round(episode.concurrency, 12),
        "agents": episode.agents,
    }


def examples(strategy, n: int, derandomize: bool = True) -> list:
    """n draws of a hypothesis strategy, by default the same ones every time."""
    found = []

    @settings(
        max_examples=n,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example):
        found.append(example)

    draw()
    return found
