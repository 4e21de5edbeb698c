"""Everything that a config names, built: task splits, tokenizer, mesh, model, engine. What all commands start from."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from asyncthink_jax.config import Config, ConfigError, RolloutConfig
from asyncthink_jax.data import builder, demonstration_file
from asyncthink_jax.data.pipeline import Demonstrations, packed_batch
from asyncthink_jax.data.tokenizer import Tokenizer, organizer_tokens, wire
from asyncthink_jax.model import lora, transformer
from asyncthink_jax.model.cache import put_row, reads_enough, row_count
from asyncthink_jax.model.transformer import ModelConfig, Params
from asyncthink_jax.model.weights import Weights, WeightsError, check, load, open_weights
from asyncthink_jax.parallel.mesh import make_mesh, mesh_text, nearest_mesh, use_cpu_devices
from asyncthink_jax.parallel.sharding import divides, param_specs, rollout_specs, shard
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.prompts import Prompts
from asyncthink_jax.rollout.engine import Engine
from asyncthink_jax.rollout.sampling import Sampling
from asyncthink_jax.rollout.state import DecodingModel, Limits, Where
from asyncthink_jax.storage.texts import check_prompts, texts_of_run
from asyncthink_jax.tasks.task import Problem
from asyncthink_jax.training.sft import with_number_features


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run. Nothing in here changes while it trains."""

    config: Config
    mesh: Mesh
    tokenizer: Tokenizer
    model: ModelConfig
    splits: dict[str, list[Any]]  # the task's problems
    prompts: Prompts
    grammar: Grammar
    weights: Weights | None  # what training starts from; None = random parameters

    @property
    def dense_model(self) -> ModelConfig:
        """The model of rollouts and exports, in which adapters are merged."""
        return dataclasses.replace(self.model, lora=lora.LoRA())

    @functools.cached_property
    def demonstrations(self) -> Demonstrations:
        """What the cold start of this paradigm is trained on. Raises ConfigError for a file that can't be used."""
        config, scripts = self.config, []
        if config.data.demonstrations:
            try:
                scripts = demonstration_file.read(config.data.demonstrations, config.task.from_json, self.grammar)
            except (ValueError, FileNotFoundError) as error:
                raise ConfigError(str(error)) from error
        return Demonstrations(
            task=config.task,
            splits=self.splits,
            kind=config.task.demonstrations if config.paradigm == "async" else "sequential",
            tokenizer=self.tokenizer,
            prompts=self.prompts,
            agents=config.pool.agents,
            scripts=scripts,
        )

    def check_demonstrations(self, row_length: int) -> None:
        """Raises ConfigError, in one line, where there are no demonstrations that fit into rows of this length.

        Or where they fork more sub-queries than the pool has ids.
        """
        forks, ids = self.config.task.demonstrated_forks, self.config.pool.max_forks
        if self.config.paradigm == "async" and not self.demonstrations.scripts and forks > ids:
            raise ConfigError(f"task: demonstrations fork up to {forks} sub-queries, pool.max_forks is only {ids}")
        try:
            packed_batch(self.demonstrations, 1, row_length, np.random.default_rng(0))
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def prompt(self, problem: Problem) -> list[int]:
        """The organizer's prompt, as tokens."""
        return organizer_tokens(self.tokenizer, self.prompts, problem.query)

    def new_params(self) -> Params:
        """What training starts from, in the training layout: all parameters, or the adapters of frozen ones."""
        key, number_key = jax.random.split(jax.random.key(self.config.seed))
        if self.weights is not None and not self.model.lora.rank:
            return load(self.weights, self.model, self._layout(self.model))
        # In one program, so that of a model with adapters nothing else is ever made.
        params = jax.jit(lambda key: lora.split(transformer.init(self.model, key))[0])(key)
        if self.weights is None and self.config.sft.number_init and not self.model.lora.rank:
            params = with_number_features(params, self.tokenizer, number_key)
        return shard(params, param_specs(params, self.mesh))

    @functools.cached_property
    def frozen(self) -> Params:
        """The parameters that no stage changes, in the training layout and the compute type: none without adapters."""
        if not self.model.lora.rank:
            return {}
        if self.weights is not None:
            return load(self.weights, self.dense_model, self._layout(self.dense_model), self.model.dtype)
        _, frozen = lora.split(transformer.init(self.model, jax.random.split(jax.random.key(self.config.seed))[0]))
        frozen = jax.tree.map(lambda x: x.astype(self.model.dtype), frozen)
        return shard(frozen, param_specs(frozen, self.mesh))

    def _layout(self, model: ModelConfig) -> Any:
        return param_specs(transformer.abstract_params(model), self.mesh)

    def abstract_params(self) -> Params:
        """Shapes, types and shardings of what is trained, in the training layout: what a checkpoint is restored to."""
        return self._abstract(lora.split(transformer.abstract_params(self.model))[0])

    def abstract_frozen(self) -> Params:
        """Shapes, types and shardings of `frozen`."""
        frozen = lora.split(transformer.abstract_params(self.model))[1]
        return self._abstract(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, self.model.dtype), frozen))

    def _abstract(self, shapes: Params) -> Params:
        layout = param_specs(shapes, self.mesh)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)

    @functools.cached_property
    def engine(self) -> Engine:
        """The engine of this paradigm; independent traces (sequential, parallel) are organizers without workers."""
        return make_engine(self.config.rollout, self.dense_model, self.grammar, self.tokenizer, self.prompts, self.mesh)

    def dense_params(self, params: Params) -> Params:
        """Parameters of `dense_model`, in the training layout: of all that is trained and frozen, adapters merged."""
        return jax.jit(lambda *parts: lora.merge(lora.join(*parts), self.model.lora))(params, self.frozen)

    def to_rollout_layout(self, params: Params) -> Params:
        """What is trained, in the training layout, to the parameters that the engine decodes with."""
        return self.reshard(params, self.frozen)

    @functools.cached_property
    def reshard(self) -> Any:
        """Jitted: (trained, frozen) to the rollout layout: adapters merged, in the compute type, layer by layer.

        Not as a stack: the decode loop would take the layers out of it, and hold all of them twice.
        """
        dtype = jnp.dtype(self.model.dtype)

        def moved(trained: Params, frozen: Params) -> Params:
            whole = lora.merge(lora.join(trained, frozen), self.model.lora)
            return transformer.unstacked(self.dense_model, jax.tree.map(lambda x: x.astype(dtype), whole))

        shapes = jax.eval_shape(
            functools.partial(transformer.unstacked, self.dense_model), transformer.abstract_params(self.dense_model)
        )
        return jax.jit(moved, out_shardings=rollout_specs(shapes, self.mesh))


def make_engine(
    rollout: RolloutConfig,
    model: ModelConfig,
    grammar: Grammar,
    tokenizer: Tokenizer,
    prompts: Prompts,
    mesh: Mesh,
    whole_cache: bool = False,
) -> Engine:
    """The engine for a model, a tokenizer and the text around its queries, whatever they belong to.

    With `whole_cache` there is one program to compile and not two: for a few episodes that somebody waits for.

    Raises:
        ValueError: what they give can't be used, see `Engine`.
    """
    limits = Limits(
        slots=rollout.slots,
        context=rollout.context,
        organizer_budget=rollout.organizer_budget,
        worker_budget=rollout.worker_budget,
        feed_width=rollout.feed_width,
        worker_context=rollout.worker_context or None,
        worker_rows=rollout.worker_rows or None,
        prefill=rollout.prefill,
        wide_at=rollout.wide_at,
        min_workers=rollout.min_workers if grammar.capacity > 1 else 0,
    )
    return Engine(
        decoding_model(model, limits.rows_of_slot(grammar.capacity), limits.worker_context),
        wire(tokenizer, prompts, grammar, model.vocab_size),
        limits,
        mesh=mesh,
        sampling=Sampling(rollout.repetition_penalty, rollout.top_k, rollout.top_p, rollout.min_p),
        constrain=rollout.constrain,
        whole_cache=whole_cache or rollout.whole_cache or reads_enough(limits.context),
    )


def decoding_model(config: ModelConfig, rows_of_slot: int = 1, worker_length: int | None = None) -> DecodingModel:
    """The transformer as the engine wants it.

    With `worker_length`, organizers and workers have caches of their own, the workers' of that length: attention reads
    whole rows, and all but the first of a slot's (`Limits.rows_of_slot`) are workers'. (Measured: experiments/LOG.md.)
    """
    split = rows_of_slot > 1 and worker_length is not None

    def init_cache(rows: int, length: int) -> Any:
        if not split:
            return (transformer.init_cache(config, rows, length),)
        slots = rows // rows_of_slot
        return (
            transformer.init_cache(config, slots, length),
            transformer.init_cache(config, slots * (rows_of_slot - 1), worker_length),
        )

    def logits(
        params: Params, caches: Any, tokens: Array, positions: Array, last: Array, read_length: int, where: Where
    ) -> tuple[Array, Any]:
        hidden, caches = transformer.decode(
            config,
            params,
            caches,
            tokens,
            positions,
            groups=tokens.shape[0] // rows_of_slot,
            read_lengths=(read_length, None) if split else (read_length,),
        )
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return transformer.logits(config, params, hidden), caches

    def adopt(caches: Any, prompts: Any, entry: Array, slot: Array, slots: int) -> Any:
        organizers = caches[0]
        row = slot * (row_count(organizers) // slots)
        return (put_row(organizers, row, prompts, entry), *caches[1:])

    return DecodingModel(
        init_cache,
        logits,
        prepare=functools.partial(transformer.unstacked, config),
        prompt_cache=functools.partial(transformer.init_cache, config, kept_once=True),
        prefill=functools.partial(transformer.prefill, config),
        adopt=adopt,
    )


def mesh_of(config: Config) -> Mesh:
    """The mesh of all devices of all processes. Raises ConfigError, in one line, if there is none of these sizes."""
    use_cpu_devices(config.mesh.cpu_devices)
    try:
        return make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def multiply_in_full(model: ModelConfig) -> None:
    """Has JAX multiply what is fp32 in full, for a model in fp32; to be called before anything of it is traced.

    TPUs and GPUs take shorter products of fp32 numbers if nobody objects, and then the trainer's log-probabilities are
    not those that the engine recorded. It is a setting of JAX's and not an argument of our products because those of
    kernels and of their gradients have no such argument. Models in bfloat16 stay with what the chip does, and whoever
    sets JAX_DEFAULT_MATMUL_PRECISION has that.
    """
    if not os.environ.get("JAX_DEFAULT_MATMUL_PRECISION"):
        jax.config.update("jax_default_matmul_precision", "highest" if model.dtype == "float32" else None)


def build(config: Config, workdir: Path, mesh: Mesh | None = None) -> Experiment:
    """Builds the experiment; writes the splits (under `workdir/data`) and the tokenizer if they are not there yet.

    On `mesh`, if one is given in place of the config's. Raises ConfigError, in one line, for what doesn't fit: mesh and
    devices, vocabulary and model, rules and splits.
    """
    mesh = mesh or mesh_of(config)
    try:
        splits = builder.prepare(workdir / "data", config.task, config.data.skip_bad)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"task: {error}") from error
    grammar = config.grammar
    try:
        weights = open_weights(config.pretrained) if config.pretrained else None
        tokenizer, prompts = texts_of_run(config, workdir, grammar, weights)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
    check_prompts(splits, tokenizer, prompts, config)
    # A released model may have more rows than its tokenizer has tokens.
    vocab_size = tokenizer.vocab_size if weights is None else weights.config.vocab_size
    if config.model.vocab_size not in (0, vocab_size):
        owner = f"the tokenizer {workdir / 'tokenizer.model'}" if weights is None else f"the model {weights.path}"
        raise ConfigError(
            f"model.vocab_size is {config.model.vocab_size}, {owner} has {vocab_size} tokens; 0 takes it from there"
        )
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    if config.model.lora.rank and not lora.is_installed():
        raise ConfigError("model.lora.rank > 0 needs the package qwix: pip install 'asyncthink_jax[lora]'")
    if weights is not None:
        try:
            check(weights, dataclasses.replace(model, lora=lora.LoRA()))
        except WeightsError as error:
            raise ConfigError(f"model: {error}") from error
    check_mesh(config, model, mesh)
    multiply_in_full(model)
    return Experiment(
        config=config,
        mesh=mesh,
        tokenizer=tokenizer,
        model=model,
        splits=splits,
        prompts=prompts,
        grammar=grammar,
        weights=weights,
    )


def check_mesh(config: Config, model: ModelConfig, mesh: Mesh) -> None:
    """Raises ConfigError where the mesh doesn't divide what is split over it: rows of batches, axes of weights."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    for name, rows in (
        ("rollout.slots", config.rollout.slots),
        ("sft.rows / sft.microbatches", config.sft.rows // config.sft.microbatches if config.sft.steps else 0),
        ("rl.rows / rl.microbatches", config.rl.rows // config.rl.microbatches if config.rl.iterations else 0),
    ):
        if rows % shards:
            raise ConfigError(f"{name} is {rows}, but must be a multiple of mesh.data x mesh.fsdp, {shards}")
    shapes = transformer.abstract_params(model)
    try:
        param_specs(shapes, mesh)
    except ValueError as error:
        nearest = nearest_mesh(tuple(mesh.shape.values()), mesh.size, lambda sizes: divides(shapes, sizes))
        raise ConfigError(f"{error}; {mesh_text(nearest)} would" if nearest else str(error)) from error
