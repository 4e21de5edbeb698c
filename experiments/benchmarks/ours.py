"""Our side of the benchmarks: the engine over the transformer, with decoded tokens forced by a table of scripts.

The transformer does all its work, with random weights. Then the logit of the token that the script demands is raised
above all others. So lengths, forks and joins are as scripted, and the time is that of a real model. Where a script says
FREE, the model samples any token except a tag or the end-of-text token.

The vocabulary: the tags (one token each), the end-of-text token, and words.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.parameters import rollout_specs
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.play.decoder import decoding_model
from asyncthink_jax.protocol.grammar import Grammar, tag_literals
from asyncthink_jax.protocol.wire import Wire
from asyncthink_jax.rollout.engine import Engine
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.rollout.state import DecodingModel, Limits

FREE = -1  # in a script: whatever the model samples
FORKS = 8  # fork ids of every vocabulary here
TAGS = tag_literals(FORKS)
END_OF_TEXT = len(TAGS)
FIRST_WORD = len(TAGS) + 1
WORKER_PREFIX, WORKER_SUFFIX = [FIRST_WORD], [FIRST_WORD + 1]


def tag(text: str) -> int:
    """The token of a tag."""
    return TAGS.index(text)


def forced(model: DecodingModel) -> DecodingModel:
    """`model` decoding what the table `params["script"]` int32[E, T, N] says; its own are `params["model"]`."""

    def logits(params, cache, tokens, positions, last, read_length, where):
        values, cache = model.logits(params["model"], cache, tokens, positions, last, read_length, where)
        script = params["script"]
        wanted = script[where.episode, where.trace, jnp.minimum(where.decoded, script.shape[2] - 1)][:, None]
        token = jnp.arange(values.shape[1])
        allowed = jnp.where(wanted == FREE, token >= FIRST_WORD, token == wanted)
        return jnp.where(allowed, values, -1e9), cache

    def prefill(params, tokens):
        return model.prefill(params["model"], tokens)

    prepare = lambda params: {**params, "model": model.prepare(params["model"])}  # noqa: E731
    return model._replace(logits=logits, prepare=prepare, prefill=prefill)


@dataclasses.dataclass
class Ours:
    """An engine with its parameters and random prompts, run as a whole: from lists of tokens to arrays on the host.

    Args:
        config: the model's sizes.
        limits: of the engine; its rows are split over as many devices as divide the slots.
        agents: of an episode; 1 = plain sampling.
        mesh: instead of one over this machine's devices.
        scripted: False for the bare model, which nothing is run with: it has no parameters then.
    """

    config: ModelConfig
    limits: Limits
    agents: int = 1
    mesh: jax.sharding.Mesh | None = None
    scripted: bool = True

    def __post_init__(self):
        devices = jax.devices()[: int(np.gcd(len(jax.devices()), self.limits.slots))]
        self.mesh = self.mesh or make_mesh(devices=devices)
        vocabulary = [text.encode() for text in TAGS] + [b""]
        vocabulary += [f" w{n}".encode() for n in range(len(vocabulary), self.config.vocab_size)]
        grammar = Grammar(self.agents, FORKS if self.agents > 1 else 0)
        closers = {i: [tag(f"</JOIN-{i}>")] for i in range(1, grammar.max_forks + 1)}
        model = decoding_model(self.config, self.limits.rows_of_slot(self.agents), self.limits.worker_context)
        self.engine = Engine(
            forced(model) if self.scripted else model,
            Wire(grammar, vocabulary, WORKER_PREFIX, WORKER_SUFFIX, closers, stop_ids=[END_OF_TEXT]),
            self.limits,
            mesh=self.mesh,
        )
        if not self.scripted:
            return
        params = transformer.init(self.config, jax.random.key(0))
        self.params = jax.device_put(params, rollout_specs(params, self.mesh))

    def prompts(self, lengths: list[int]) -> list[list[int]]:
        """Random words."""
        rng = np.random.default_rng(0)
        return [rng.integers(FIRST_WORD, self.config.vocab_size, n).tolist() for n in lengths]

    def run(self, prompts: list[list[int]], script: np.ndarray) -> Rollout:
        """One rollout of all prompts at temperature 1. `script`: int32[E, T, N]."""
        params = {"model": self.params, "script": jnp.asarray(script)}
        return self.engine.run(params, prompts, jax.random.key(0), temperature=1.0)

    def programs(self) -> int:
        """How many programs the decode loop has been compiled into so far."""
        return self.engine.advance._cache_size()


def ending_after(lengths: list[int], shape: tuple[int, int] | None = None) -> np.ndarray:
    """Scripts [E, 1, N] of single traces that decode freely and end with the end-of-text token as their last.

    `shape`: (E, N), where calls of different sizes are to share their compilation.
    """
    rows, width = shape or (len(lengths), max(lengths))
    script = np.full((rows, 1, width), FREE, np.int32)
    for n, length in enumerate(lengths):
        script[n, 0, length - 1] = END_OF_TEXT
    return script
