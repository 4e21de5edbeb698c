"""The settings of an experiment: types, loading, overriding, checking, saving.

An experiment is a Python file with a docstring (the lab note: what it shows, on what hardware, in how long, by which
command) and `def get_config() -> Config`. A command loads it with `load(path, overrides)`, where an override is
`rl.learning_rate=1e-4` (on the command line `--config.rl.learning_rate=1e-4`). Whatever is wrong with a file, a key or
a value raises `ConfigError` with one line that says what and, for a name, the nearest right one.

The resolved config is saved as JSON with the run. A resume asks `differences(saved, now)`, which lists the fields that
would change what is learned; what only changes how it is watched (evaluation, checkpoint interval) or computed
(the mesh, microbatches, slots: `FREE_ON_RESUME`) is not compared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from asyncthink_jax import sections
from asyncthink_jax.config_rules import INF, RANGES, relations
from asyncthink_jax.files import FileError, check_sum, read_object
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.sections import ConfigError, did_you_mean
from asyncthink_jax.tasks import TASKS, Countdown, Task
from asyncthink_jax.untrusted.files import parse_json

CHECKPOINTS = ("best", "latest", "cold_start")  # the parameters of a run, by the names that commands know them by
Paradigm = Literal["async", "sequential", "parallel"]
PARADIGMS: tuple[str, ...] = typing.get_args(Paradigm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How files are read."""

    skip_bad: bool = False  # a broken line of a dataset is reported and left out; else it ends the run at its start
    # A file of demonstrations, a line each, in place of those that a program makes: what `synthesize` writes, say.
    demonstrations: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Size of the agent pool."""

    agents: int = 4  # c, the organizer included (4 on the paper's math tasks)
    max_forks: int = 6  # sub-query ids run from 1 to this
    parallel_traces: int = 4  # independent traces of the parallel paradigm


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices per mesh axis; one axis may be -1: all that are left."""

    data: int = -1  # copies of the model
    fsdp: int = 1  # shards of parameters and optimizer state while training
    tensor: int = 1  # shards of heads and of the feed-forward width
    cpu_devices: int = 1  # CPU devices that XLA shows; a rollout runs one loop per device, so use one per core


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """The engine: how many episodes at once, and how long they may get."""

    slots: int = 64  # episodes in flight, S; a finished one hands its rows to the next prompt
    organizer_budget: int = 240  # tokens an organizer may decode
    worker_budget: int = 128  # tokens a worker may decode (512 in the paper's math tasks)
    context: int = 256  # known tokens a row can hold: prompt, decoded and joined
    worker_context: int = 0  # the same for workers' rows, whose cache is then shorter; 0 = context
    worker_rows: int = 0  # of an episode; with fewer than the pool has workers some wait for one; 0 = one for each
    feed_width: int = 1  # known tokens that a row can feed in one step
    wide_at: float = 1.0  # feed several tokens per row when more than this many wait per working row; else one
    prefill: int = 64  # prefill prompts of at least this length in one pass, once per group; 0 = never
    whole_cache: bool = False  # attention always reads all of the cache: one program to compile and not two (CPU: one)
    constrain: bool = False  # mask tokens that would break the format
    min_workers: int = 0  # with constrain: workers that an organizer must have joined before it answers
    # What else changes the distribution (`rollout/sampling.py`); RL's old log-probabilities are then the trainer's.
    repetition_penalty: float = 1.0  # on logits of tokens that the trace has decoded already; 1 = off
    top_k: int = 0  # likeliest tokens that are left; 0 = all
    top_p: float = 1.0  # probability that the tokens left add up to (nucleus); 1 = all
    min_p: float = 0.0  # times the likeliest token's probability is the least one that is left; 0 = all

    @property
    def from_whole_distribution(self) -> bool:
        """Whether tokens are drawn from the model's distribution at the temperature, with nothing else changed."""
        changes = (self.constrain, self.repetition_penalty, self.top_k, self.top_p, self.min_p)
        return changes == (False, 1, 0, 1, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerFields:
    """What both stages say about their optimizer. A step is one optimizer step everywhere."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4  # peak (of the matrices under muon)
    adam_learning_rate: float = 3e-4  # under muon: peak for embeddings and norms, which Adam updates
    warmup_steps: int = 10  # linear up to the peak
    final_fraction: float = 0.1  # learning rate at the end / peak
    weight_decay: float = 0.0  # decoupled, matrices only
    b1: float = 0.9  # momentum
    b2: float = 0.99  # decay of the second moment
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"  # of the first moment: half the memory (adamw)
    grad_clip: float = 1.0  # largest global gradient norm; 1e9 = off
    skip_nonfinite: int = 0  # updates that may be left out for a loss or gradient that isn't finite; one more ends it
    rows: int = 16  # packed rows of one optimizer step, B
    row_length: int = 256  # tokens in a packed row, L
    microbatches: int = 1  # gradient accumulation: parts that a step's rows are cut into
    loss_chunk: int = 1024  # tokens whose logits exist at the same time


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig(OptimizerFields):
    """Stage 1, the cold start (paper, section 3)."""

    steps: int = 1200
    # Muon reached in 38 s the loss that Adam needed over 110 s for (3 layers, width 128, 2 cores).
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 0.02
    adam_learning_rate: float = 3e-3
    warmup_steps: int = 20
    final_fraction: float = 0.05
    number_init: bool = True  # number embeddings start as Fourier features of their value (a special initialisation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLConfig(OptimizerFields):
    """Stage 2, reinforcement learning (paper, section 4). Unknown in the paper: all but the reward's form."""

    iterations: int = 80  # an iteration = one batch of episodes + `optimizer_steps`
    prompts: int = 16  # problems an iteration
    group_size: int = 8  # episodes a problem
    # Groups that are trained on: all, or those with unequal rewards, for which further problems are sampled until
    # there are `prompts` of them or `max_rollouts` are done (dynamic sampling, DAPO).
    groups: Literal["all", "unequal"] = "all"
    max_rollouts: int = 4  # rollouts of `prompts` problems an iteration at most, with groups=unequal
    temperature: float = 0.7  # sampling; at 1.0 a tiny model's workers fell apart
    warmup_steps: int = 4
    optimizer_steps: int = 2  # minibatches an iteration's episodes are cut into
    rows: int = 64
    # Level of the probability ratio: of each token, or one of each trace (GSPO; use with clips of 3e-4 and 4e-4).
    ratio: Literal["token", "trace"] = "token"
    clip_low: float = 0.2  # ratio clip below 1
    clip_high: float = 0.28  # ratio clip above 1 ("clip-higher")
    kl: float = 0.0  # weight of the KL penalty to the cold start
    # Divides by the group's deviation: once all of a group are correct, concurrency counts as correctness did.
    std_normalise: bool = False
    # What counts the same in the loss of an optimizer step: each token (as in DAPO), trace or episode (as in GRPO).
    # constant: each token, and the sum is divided by episodes * row_length instead of the tokens (Dr. GRPO).
    aggregation: Literal["token-mean", "trace-mean", "episode-mean", "constant"] = "token-mean"
    worker_weight: float = 1.0  # loss weight of the workers' tokens (the organizer's is 1)
    worker_keep: float = 1.0  # share of worker traces that are trained on
    # Fresh demonstrations that an iteration imitates beside its episodes, but only their work (searches, tallies,
    # answers): rewards teach to organize, and wear down what the cold start had taught to do.
    imitated_demonstrations: int = 0
    imitation_weight: float = 1.0  # loss weight of their tokens
    format_penalty: float = -1.0  # R_FE, the whole reward of a malformed episode; at most -wrong_penalty
    concurrency_weight: float = 1.0  # lambda
    concurrency_times_accuracy: bool = False  # R_A + lambda R_A R_eta: leaving work out costs concurrency too
    tau: float = 0.8  # concurrency ratio beyond which more earns nothing
    all_correct_bonus: float = 0.0  # added when all solutions asked for are right
    wrong_penalty: float = 0.0  # times the share of wrong expressions in the answer, subtracted
    # Old log-probabilities by the trainer's forward pass instead of the sampler's. Always so where the sampler's are of
    # another distribution than the temperature's: constrained, filtered or penalised (`rollout`).
    recompute_logprobs: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is measured, not what is learned."""

    problems: int = 0  # test problems; 0 = all
    samples: int = 1  # episodes a problem, at each temperature above 0
    temperatures: tuple[float, ...] = (0.7, 1.0, 0.0)  # 0 = greedy; the first is the one in the table
    validate_every: int = 10  # RL iterations between validations, which choose the best checkpoint
    validation_problems: int = 100  # validation problems each time


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state of a run is saved."""

    every_sft_steps: int = 10
    every_rl_iterations: int = 1
    keep: int = 2  # latest checkpoints on disk; the best is kept beside them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment."""

    name: str
    seed: int = 0  # of parameters, data order and sampling
    paradigm: Paradigm = "async"
    # Weights, tokenizer and prompts that the run starts from: a Hugging Face folder or hub id, a GGUF file, gs://..
    # "" = from scratch: random weights, a tokenizer trained on the task's words.
    pretrained: str = ""
    # Run whose parameters, tokenizer and prompts this one begins with: FOLDER (its best), FOLDER@latest or @cold_start.
    start_from: str = ""
    task: Task = dataclasses.field(default_factory=Countdown)  # the problems; its fields are those of its class
    data: DataConfig = DataConfig()
    pool: PoolConfig = PoolConfig()
    model: ModelConfig
    mesh: MeshConfig = MeshConfig()
    rollout: RolloutConfig = RolloutConfig()
    sft: SFTConfig = SFTConfig()
    rl: RLConfig = RLConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def grammar(self) -> Grammar:
        """The pool and its ids; independent traces (sequential, parallel) are organizers without workers."""
        return Grammar(self.pool.agents, self.pool.max_forks) if self.paradigm == "async" else Grammar(1, 0)


# Sections and fields that a resumed run may change: what it learns does not depend on them, but for rounding. What is
# too large for the memory can be mended in the middle of a run.
FREE_ON_RESUME = (
    *("name", "mesh", "eval", "checkpoint", "model.remat"),
    *("rollout.slots", "rollout.worker_rows", "rollout.feed_width", "rollout.wide_at"),
    *("rollout.prefill", "rollout.whole_cache"),
    *("sft.microbatches", "sft.loss_chunk", "rl.microbatches", "rl.loss_chunk"),
    *("sft.skip_nonfinite", "rl.skip_nonfinite"),
)


# ---------------------------------------------------------------------------------------------------------- loading


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """The checked config of an experiment file (`.py`, or the `config.json` of a run), with overrides applied in order.

    Raises:
      ConfigError: no such file, a file without `get_config`, an unknown key, a value of the wrong type or out of range.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ConfigError(f"config file not found: {path}")
    if path.endswith(".json"):
        config = saved_config(path)
    else:
        config = experiment_file(path)
    for item in overrides:
        config = override(config, item)
    validate(config)
    return config


def experiment_file(path: str | os.PathLike[str]) -> Config:
    """What the file's `get_config()` returns, unchecked: for `load`, and for an experiment that varies another.

    Raises:
      ConfigError: the file can't be run, has no `get_config`, or that returns no Config.
    """
    path = os.fspath(path)
    try:
        get_config = runpy.run_path(path).get("get_config")
        if get_config is None:
            raise ConfigError(f"{path} has no function get_config()")
        config = get_config()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: get_config() returned {type(config).__name__}, not Config")
    return config


def _one_line(error: Exception) -> str:
    """The message of an exception, with the nearest right name where a dataclass got a keyword it doesn't know."""
    message = " ".join(str(error).split())
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if unknown:
        section, key = unknown.groups()
        known = {cls.__name__: cls for cls in (*sections.classes(Config), *TASKS.values())}
        if section in known:
            return f"{section} has no field {key!r}{did_you_mean(key, sections.hints(known[section]))}"
    return f"{type(error).__name__}: {message}"


def override(config: Config, item: str) -> Config:
    """`config` with one field changed, e.g. by `rl.learning_rate=1e-4`; raises ConfigError.

    Another `task.name` brings another task, with its defaults: the fields of the one before are not its own.
    """
    path, equals, text = item.partition("=")
    path, text = path.strip(), text.strip()
    if not equals:
        raise ConfigError(f"override {item!r} is not of the form section.field=value")
    if path == "task.name" and text != config.task.name:
        return dataclasses.replace(config, task=_task_class(text, f"config field {path!r}: ")(name=text))
    return sections.override(config, path, text)


def _task_class(name: Any, where: str) -> type[Task]:
    if not isinstance(name, str) or name not in TASKS:
        near = did_you_mean(str(name), TASKS)
        raise ConfigError(f"{where}{name!r} is not one of {', '.join(TASKS)}{near}")
    return TASKS[name]


# --------------------------------------------------------------------------------------------------------- checking


def validate(config: Config) -> None:
    """Checks that cost nothing: types, ranges, and what must fit what. Raises ConfigError at the first that fails."""
    for path, hint in sections.leaves(config):
        value = sections.get(config, path)
        if not sections.fits(value, hint):
            near = ""
            if typing.get_origin(hint) is Literal and isinstance(value, str):
                near = did_you_mean(value, map(str, typing.get_args(hint)))
            raise ConfigError(f"config field {path!r}: {value!r} is not {sections.type_name(hint, value)}{near}")
    task = config.task
    if _task_class(task.name, "config field 'task.name': ") is not type(task):
        raise ConfigError(f"config field 'task.name': {task.name!r} is another task than {type(task).__name__}")
    of_task = [(f"task.{name}", low, high) for name, (low, high) in task.ranges.items()]
    for path, low, high in [*of_task, *RANGES]:
        value = sections.get(config, path)
        if not low <= value <= high:
            bounds = f"at least {low}" if high == INF else f"from {low} to {high}"
            raise ConfigError(f"config field {path!r} is {value}, must be {bounds}")
    for is_right, message in [*task.check(), *relations(config)]:
        if not is_right:
            raise ConfigError(message)


# ----------------------------------------------------------------------------------------------------------- saving


def to_json(config: Config) -> str:
    """The resolved config as JSON text, one field a line."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`; the task is of the class of its name. Raises ConfigError for text that is no config."""
    try:
        data = parse_json(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"saved config is {error}") from error
    return _from_data(data)


def _from_data(data: Any) -> Config:
    task = data.get("task") if isinstance(data, dict) else None
    chosen = {"task": _task_class(task.get("name"), "saved config: task.name ")} if isinstance(task, dict) else {}
    return sections.from_dict(Config, data, chosen)


def saved_config(path: str | os.PathLike[str]) -> Config:
    """The config in the config.json of a run. Raises ConfigError, which names the file, if it is damaged."""
    path = Path(path)
    try:
        data = read_object(path, "put it back from a copy")
        check_sum(path)
        return _from_data(data)
    except FileError as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of `train`, and not a model of others.

    Raises ConfigError, which names it, for the config.json of a run that is damaged or missing.
    """
    path = folder / "config.json"
    trained = (folder / "checkpoints" / "latest").is_dir()  # other trainers have a folder `checkpoints` too
    if trained and not path.is_file():
        raise ConfigError(f"{folder} has the checkpoints of a run, but no config.json; put it back from a copy")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if trained:
            raise ConfigError(f"{path} can't be read ({error}); put it back from a copy") from error
        return False
    named = data.keys() if isinstance(data, dict) else set()
    return bool({"paradigm", "rollout"} & named) or (trained and "model_type" not in named)


def differences(saved: Config, now: Config) -> list[str]:
    """One line `field: saved X, now Y` for each field that differs and would change what is learned."""
    lines = []
    common = dict(sections.leaves(saved)).keys() & dict(sections.leaves(now)).keys()  # tasks have fields of their own
    for path in [path for path, _ in sections.leaves(now) if path in common]:
        was, is_now = sections.get(saved, path), sections.get(now, path)
        if was != is_now and not {path, path.split(".")[0]} & set(FREE_ON_RESUME):
            lines.append(f"{path}: saved {was!r}, now {is_now!r}")
    return lines
