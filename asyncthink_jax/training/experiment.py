"""Everything that a config names, built: what training and evaluation start from."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from asyncthink_jax.config import Config, ConfigError
from asyncthink_jax.data import demonstration_file
from asyncthink_jax.data.pipeline import Demonstrations, packed_batch
from asyncthink_jax.model import lora, transformer
from asyncthink_jax.model.parameters import param_specs
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.model.weights import load
from asyncthink_jax.parallel.sharding import shard
from asyncthink_jax.play.run_model import RunModel, mesh_of, problems, run_model
from asyncthink_jax.storage.texts import check_prompts
from asyncthink_jax.tasks.task import Splits
from asyncthink_jax.training.sft import with_number_features


@dataclasses.dataclass(frozen=True)
class Experiment(RunModel):
    """The parts of a run: its model, the problems of its task, and how both begin."""

    splits: Splits

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


def build(config: Config, workdir: Path, mesh: Mesh | None = None) -> Experiment:
    """Builds the experiment; writes the splits (under `workdir/data`) and the tokenizer if they are not there yet.

    On `mesh`, if one is given in place of the config's. Raises ConfigError, in one line, for what doesn't fit: mesh and
    devices, vocabulary and model, rules and splits.
    """
    mesh = mesh or mesh_of(config)
    splits = problems(config, workdir)
    model = run_model(config, workdir, mesh)
    check_prompts(splits, model.tokenizer, model.prompts, config)
    return Experiment(**vars(model), splits=splits)
