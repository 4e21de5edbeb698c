"""A run's model with all that it takes to ask it something: tokenizer, prompts, mesh, engine. No optimizer."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from asyncthink_jax.config import Config, ConfigError
from asyncthink_jax.data.tokenizer import Tokenizer, organizer_tokens
from asyncthink_jax.model import lora, transformer
from asyncthink_jax.model.model_config import LoRA, ModelConfig
from asyncthink_jax.model.parameters import divides, param_specs, rollout_specs
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.model.weights import Weights, WeightsError, check, load, open_weights
from asyncthink_jax.parallel.mesh import make_mesh, mesh_text, nearest_mesh, use_cpu_devices
from asyncthink_jax.parallel.sharding import laid_out, shard
from asyncthink_jax.play.decoder import make_engine, multiply_in_full
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.prompts import Prompts
from asyncthink_jax.rollout.engine import Engine
from asyncthink_jax.storage.texts import texts_of_run
from asyncthink_jax.tasks.task import Problem, Splits


@dataclasses.dataclass(frozen=True)
class RunModel:
    """The model of a run, its parameters aside. Nothing in here changes while it trains."""

    config: Config
    mesh: Mesh
    tokenizer: Tokenizer
    model: ModelConfig
    prompts: Prompts
    grammar: Grammar
    weights: Weights | None  # what training starts from; None = random parameters

    @property
    def dense_model(self) -> ModelConfig:
        """The model of rollouts and exports, in which adapters are merged."""
        return dataclasses.replace(self.model, lora=LoRA())

    def prompt(self, problem: Problem) -> list[int]:
        """The organizer's prompt, as tokens."""
        return organizer_tokens(self.tokenizer, self.prompts, problem.query)

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
        return laid_out(shapes, param_specs(shapes, self.mesh))

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


def mesh_of(config: Config) -> Mesh:
    """The mesh of all devices of all processes. Raises ConfigError, in one line, if there is none of these sizes."""
    use_cpu_devices(config.mesh.cpu_devices)
    try:
        return make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def run_model(config: Config, workdir: Path, mesh: Mesh | None = None) -> RunModel:
    """The model of the run in `workdir`, to which a new run's tokenizer and prompts are written.

    On `mesh`, if one is given in place of the config's. Raises ConfigError, in one line, for what doesn't fit: mesh and
    devices, vocabulary and model, tokenizer and task.
    """
    mesh = mesh or mesh_of(config)
    grammar = config.grammar
    try:
        weights = open_weights(config.pretrained) if config.pretrained else None
        tokenizer, prompts = texts_of_run(config, workdir, grammar, weights)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
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
            check(weights, dataclasses.replace(model, lora=LoRA()))
        except WeightsError as error:
            raise ConfigError(f"model: {error}") from error
    check_mesh(config, model, mesh)
    multiply_in_full(model)
    return RunModel(
        config=config,
        mesh=mesh,
        tokenizer=tokenizer,
        model=model,
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


def problems(config: Config, workdir: Path) -> Splits:
    """The task's problems of every split, written under `workdir/data` if they are not there yet.

    Raises ConfigError, in one line, where there are too few, or a broken line in a file.
    """
    # Imported late: tensorflow-datasets, which asking a question doesn't need.
    from asyncthink_jax.data import builder

    try:
        return builder.prepare(workdir / "data", config.task, config.data.skip_bad)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"task: {error}") from error
