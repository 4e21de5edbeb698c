"""Where a run begins if not at the start: at another run's parameters, or behind its own end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from asyncthink_jax.config import CHECKPOINTS, Config, ConfigError, is_run, saved_config
from asyncthink_jax.files import locked
from asyncthink_jax.model.parameters import SIZES, TABLE
from asyncthink_jax.storage import bucket

# The fields of ModelConfig that decide which parameters a model has, and their shapes.
_SHAPES = sorted({"layers", "lora", *SIZES.values(), *(row.when.removeprefix("not ") for row in TABLE if row.when)})
_SHAPES.remove("vocab_size")  # 0 = taken from the tokenizer, which is the other run's


@dataclasses.dataclass(frozen=True)
class Start:
    """The checkpoint that a config's `start_from` names: `which` of the run in the folder `run`."""

    run: str
    which: str

    @classmethod
    def of(cls, config: Config) -> Start:
        """Reads "RUN@CHECKPOINT", or "RUN" for its best checkpoint."""
        run, _, which = config.start_from.rpartition("@")
        return cls(run, which) if which in CHECKPOINTS else cls(config.start_from, "best")

    def folder(self, config: Config) -> Path:
        """The local folder of the run. Raises ConfigError where no run is, or one of another pretrained model."""
        folder = bucket.local(self.run)
        if bucket.place(folder) is not None:
            with locked(folder, wait=False) as alone:
                if alone:  # else the run trains here: then this copy is newer, and must stay
                    bucket.fetch(folder)
        saved = folder / "config.json"
        if not saved.is_file():
            ways = ", ".join(f"RUN@{which}" for which in CHECKPOINTS)
            raise ConfigError(f"start_from: {self.run} holds no run (no config.json in it); it is RUN, or {ways}")
        if not is_run(folder):
            raise ConfigError(f"start_from: {self.run} is no run of train; a model of others goes into `pretrained`")
        theirs = saved_config(saved)
        if theirs.pretrained != config.pretrained:
            raise ConfigError(
                f"start_from: {self.run} has pretrained={theirs.pretrained!r}, this run {config.pretrained!r}; "
                "make them the same"
            )
        sizes = [(name, getattr(theirs.model, name), getattr(config.model, name)) for name in _SHAPES]
        if other := [f"model.{name} ({was} there, {here} here)" for name, was, here in sizes if was != here]:
            raise ConfigError(f"start_from: {self.run} has a model of other shapes: {', '.join(other)}")
        return folder


def lengthened(saved: Config, now: Config) -> Config:
    """`saved` with the lengths of `now`, which are no shorter.

    Raises ConfigError for a shorter stage, and for a longer cold start of a run whose RL has begun from its end.
    """
    for path, was, is_now in (
        ("sft.steps", saved.sft.steps, now.sft.steps),
        ("rl.iterations", saved.rl.iterations, now.rl.iterations),
    ):
        if is_now < was:
            raise ConfigError(f"--extend: {path} is {was} in the run and {is_now} here; a run only becomes longer")
    if saved.rl.iterations and now.sft.steps > saved.sft.steps:
        raise ConfigError(
            f"--extend: sft.steps is {saved.sft.steps} in the run and {now.sft.steps} here, but its RL has begun from "
            "the end of its cold start; train another run --start_from this one's @cold_start"
        )
    return dataclasses.replace(
        saved,
        sft=dataclasses.replace(saved.sft, steps=now.sft.steps),
        rl=dataclasses.replace(saved.rl, iterations=now.rl.iterations),
    )


def is_longer(saved: Config, now: Config) -> bool:
    """Whether a stage has more steps than the saved run."""
    return now.sft.steps > saved.sft.steps or now.rl.iterations > saved.rl.iterations
