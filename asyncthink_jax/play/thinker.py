"""A model that somebody talks to: whatever folder or file it comes from, the same few parts.

A folder made by `train` has all of them. A released model has weights, a tokenizer and often a chat template, and is
told the protocol in its prompt. It has no task of its own: a question is any text, and the answers of parallel traces
are put to a vote.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from asyncthink_jax.config import (
    Config,
    ConfigError,
    Paradigm,
    PoolConfig,
    RLConfig,
    RolloutConfig,
    is_run,
    load,
    override,
    validate,
)
from asyncthink_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from asyncthink_jax.data.tokenizer import Tokenizer, organizer_tokens, prompts_for
from asyncthink_jax.data.tokenizer_files import load_tokenizer
from asyncthink_jax.model import transformer
from asyncthink_jax.model.parameters import rollout_specs
from asyncthink_jax.model.tensors import WeightsError
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.model.weights import load as load_weights
from asyncthink_jax.model.weights import open_weights
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.play.decoder import make_engine, multiply_in_full
from asyncthink_jax.play.run_model import problems, run_model
from asyncthink_jax.protocol.episode import Attempt, side_by_side
from asyncthink_jax.protocol.prompts import Prompts
from asyncthink_jax.rollout.engine import Engine
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.storage.texts import check_prompts

# For a released model, whose prompts alone are some 760 tokens; what a run uses stands in its config.
UNTRAINED = RolloutConfig(
    slots=1, organizer_budget=512, worker_budget=384, context=2048, worker_context=1024, feed_width=32
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What whoever asks may choose; None leaves it to the model.

    Attributes:
      paradigm: how it thinks.
      agents: of the pool, the organizer included; in the parallel paradigm the independent traces. Sequential is one.
      temperature: of the sampling; 0 is greedy.
      max_tokens: that the organizer may decode, and each worker at most.
      constrain: only tokens that make no format error are sampled.
      seed: of all random numbers.
      checkpoint: of a run: "best", "latest" or "cold_start".
      overrides: of the config, such as `rollout.top_p=0.9`.
    """

    paradigm: Paradigm | None = None
    agents: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    constrain: bool | None = None
    seed: int = 0
    checkpoint: str = "best"
    overrides: Sequence[str] = ()


def majority(answers: Sequence[str | None]) -> str | None:
    """The answer that most traces gave, white space around it aside; of several the one that came first.

    A trace without an answer has no vote; None if none has one.
    """
    votes = Counter(answer.strip() for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


@dataclasses.dataclass(frozen=True)
class Thinker:
    """A model with all that it takes to answer a question.

    Attributes:
      task: the name of its task, or of the model.
      agents: organizer and workers, or independent traces: then the engine has a slot for each.
      engine: for one question at a time; compiled at the first.
      load_params: reads the parameters, in the rollout layout; ConfigError if they can't be read.
      merge: the one answer out of those of independent traces.
      check: raises ConfigError for a question that the model can't read.
    """

    task: str
    paradigm: Paradigm
    agents: int
    seed: int
    temperature: float
    tokenizer: Tokenizer
    prompts: Prompts
    engine: Engine
    load_params: Callable[[], Params]
    merge: Callable[[Sequence[str | None]], str | None] = majority
    check: Callable[[str], None] = lambda question: None

    @functools.cached_property
    def params(self) -> Params:
        """The parameters in the rollout layout, read once."""
        return self.load_params()

    def prompt(self, question: str) -> list[int]:
        """The organizer's prompt as tokens. Raises ConfigError for a question that can't be asked."""
        self.check(question)
        tokens = organizer_tokens(self.tokenizer, self.prompts, question)
        context = self.engine.limits.context
        if len(tokens) >= context:
            raise ConfigError(
                f"the question is too long: with the prompt around it it has {len(tokens)} tokens, and question and "
                f"thoughts together have room for {context}"
            )
        return tokens

    def think(
        self, question: str, number: int = 0, watch: Callable[[Attempt], None] | None = None, every: int = 8
    ) -> Attempt:
        """One question thought through; in the parallel paradigm by all traces.

        Args:
            question: what `prompt` accepts.
            number: of the question, which its random numbers depend on beside the seed.
            watch: called every `every` engine steps with the episode as far as it has come.
            every: at least 1.
        """
        traces = self.agents if self.paradigm == "parallel" else 1
        rollout = self.engine.run(
            self.params,
            [self.prompt(question)] * traces,
            jax.random.key(self.seed),
            self.temperature,
            episode_ids=[number * traces + n for n in range(traces)],
            watch=None if watch is None else lambda view: watch(self._attempt(view, question)),
            every=every,
        )
        return self._attempt(rollout, question)

    def _attempt(self, rollout: Rollout, question: str) -> Attempt:
        episodes = [rollout.episode(n, self.tokenizer.vocabulary, self.paradigm) for n in range(len(rollout))]
        episode = episodes[0]
        if self.paradigm == "parallel":
            answers = [one.answer for one in episodes]
            episode = side_by_side(episodes, None if answers.count(None) == len(answers) else self.merge(answers))
        return Attempt(self.task, {"question": question}, self.seed, episode, score=None, reward=None)


def load_model(path: str | Path, settings: Settings = Settings()) -> Thinker:
    """The model at `path`: the folder of a run, or a released model (a folder, a GGUF file, gs://.., a hub id).

    Parameters are read when they are first needed. Raises ConfigError, in one line, if there is no such model, or if
    the settings don't fit it.
    """
    if is_run(Path(path)):
        return _of_run(Path(path), settings)
    try:
        return _released(str(path), settings)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"--model: {error}") from error


def _released(source: str, settings: Settings) -> Thinker:
    """A model that was not trained here: what it knows of the protocol is what its prompt says."""
    if settings.checkpoint != "best":
        raise ConfigError(f"--checkpoint {settings.checkpoint} is of a run, and {source} is none")
    weights = open_weights(source)
    tokenizer = load_tokenizer(weights.path)
    # By its source: a hub id's folder is called by a commit.
    name = weights.path.stem if weights.path.is_file() else source.rstrip("/").rpartition("/")[2] or weights.path.name
    untrained = RLConfig(iterations=0)
    config = Config(name=name, model=weights.config, pool=PoolConfig(max_forks=8), rollout=UNTRAINED, rl=untrained)
    for item in settings.overrides:
        config = override(config, item)
    config = _chosen(config, settings)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"  # CPUs are slower in 16 bits
    model = dataclasses.replace(config.model, dtype=dtype)
    multiply_in_full(model)
    if weights.context is not None and config.rollout.context > weights.context:
        raise ConfigError(
            f"rollout.context is {config.rollout.context}, {source} was made for {weights.context} tokens"
        )
    grammar = config.grammar
    prompts = prompts_for(tokenizer, grammar)
    check_prompts({}, tokenizer, prompts, config)
    mesh = _mesh(config)

    def load_params() -> Params:
        try:
            return load_weights(weights, model, rollout_specs(transformer.abstract_params(model), mesh), model.dtype)
        except WeightsError as error:
            raise ConfigError(f"--model: {error}") from error

    return Thinker(
        task=name,
        **_common(config, settings),
        tokenizer=tokenizer,
        prompts=prompts,
        engine=make_engine(config.rollout, model, grammar, tokenizer, prompts, mesh, whole_cache=True),
        load_params=load_params,
    )


def _of_run(workdir: Path, settings: Settings) -> Thinker:
    config = _chosen(load(workdir / "config.json", settings.overrides), settings)
    mesh = _mesh(config)
    built = run_model(config, workdir, mesh)
    check_prompts({}, built.tokenizer, built.prompts, config)
    engine = make_engine(
        config.rollout, built.dense_model, built.grammar, built.tokenizer, built.prompts, mesh, whole_cache=True
    )

    def load_params() -> Params:
        # Imported late: orbax, which a released model doesn't need.
        from asyncthink_jax.storage.checkpoint import CheckpointError
        from asyncthink_jax.storage.restore import restore_params

        try:
            return built.to_rollout_layout(restore_params(built.abstract_params(), workdir, settings.checkpoint))
        except (CheckpointError, WeightsError) as error:
            raise ConfigError(str(error), getattr(error, "exit_code", 2)) from error

    def check(question: str) -> None:
        for word in question.split():
            if isinstance(built.tokenizer, SentencePieceTokenizer) and not built.tokenizer.knows(f" {word}"):
                example = problems(config, workdir)["test"][0].query
                raise ConfigError(
                    f"the model has no token for {word!r}; a question of its task ({config.task.name}) is {example!r}"
                )

    return Thinker(
        task=config.task.name,
        **_common(config, settings),
        tokenizer=built.tokenizer,
        prompts=built.prompts,
        engine=engine,
        load_params=load_params,
        merge=config.task.merge,
        check=check,
    )


def _common(config: Config, settings: Settings) -> dict[str, Any]:
    """The fields of a Thinker that its config gives."""
    return {
        "paradigm": config.paradigm,
        "agents": {"async": config.pool.agents, "parallel": config.pool.parallel_traces}.get(config.paradigm, 1),
        "seed": config.seed,
        "temperature": config.rl.temperature if settings.temperature is None else settings.temperature,
    }


def _mesh(config: Config) -> Mesh:
    """The model split over `mesh.tensor` devices; a few episodes need no copies of it."""
    devices = jax.devices()
    tensor = len(devices) if config.mesh.tensor == -1 else config.mesh.tensor
    if tensor > len(devices):
        raise ConfigError(f"mesh.tensor is {tensor}, but there are {len(devices)} devices")
    return make_mesh(1, 1, tensor, devices[:tensor])


def _chosen(config: Config, settings: Settings) -> Config:
    """The config with what the settings choose, for one question at a time."""
    paradigm = settings.paradigm or config.paradigm
    pool, rollout = config.pool, config.rollout
    if settings.agents is not None and paradigm == "async":
        pool = dataclasses.replace(pool, agents=settings.agents)
    if settings.agents is not None and paradigm == "parallel":
        pool = dataclasses.replace(pool, parallel_traces=settings.agents)
    if settings.max_tokens is not None:
        if settings.max_tokens >= rollout.context:
            raise ConfigError(
                f"--max_tokens {settings.max_tokens} is too much: question and thoughts together have room for "
                f"{rollout.context} tokens"
            )
        worker_budget = min(rollout.worker_budget, settings.max_tokens)
        rollout = dataclasses.replace(rollout, organizer_budget=settings.max_tokens, worker_budget=worker_budget)
    if settings.constrain is not None:
        rollout = dataclasses.replace(rollout, constrain=settings.constrain)
    # Somebody waits for it: no worker does for a row.
    rollout = dataclasses.replace(rollout, slots=pool.parallel_traces if paradigm == "parallel" else 1, worker_rows=0)
    config = dataclasses.replace(config, paradigm=paradigm, pool=pool, rollout=rollout, seed=settings.seed)
    validate(config)
    return config
