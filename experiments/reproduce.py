"""Runs the studies of `experiments/studies.py`, each in a process of its own, and makes their tables.

    python -m experiments.reproduce                                   # or: make reproduce-tiny
    python -m experiments.reproduce --only sequential,parallel --seeds 1
    python -m experiments.reproduce --only studies --dry_run          # only prints its commands

It can be stopped at any time by Ctrl-C or SIGTERM, which also reach the current run. The same command continues:
finished runs are not run again, and a stopped run goes on where it was. The rows of all studies with one seed are in
results.json of the demo's run with that seed. At the end they are copied to
`experiments/results/countdown_tiny_seed<n>.json`, where they replace rows of the same names, and the tables are made.

Exit codes: 0 done, or stopped by SIGTERM; 1 if a run failed; 2 for bad input (one line on stderr); 130 when
interrupted. Fields of all runs can be overridden (--config.sft.steps=20), for a short try in a folder of its own;
nothing of it is kept.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from asyncthink_jax.command import ending, prepare_streams, split_argv
from asyncthink_jax.config import Config, ConfigError, differences, load, saved_config
from asyncthink_jax.files import read_object, replace_text
from asyncthink_jax.sections import did_you_mean
from asyncthink_jax.shown import complain
from asyncthink_jax.storage.results import all_measured, read_results
from experiments.scores import PREFIX, RESULTS
from experiments.studies import BY_NAME, PARTS, Study, demo_folder, hours, runs_of

PYTHON = (sys.executable, "-m")  # what runs the commands


@dataclass(frozen=True)
class Step:
    """One run: a study with a seed."""

    study: Study
    seed: int
    runs: Path
    overrides: tuple[str, ...]  # of all runs, beside those of the study
    all_temperatures: bool = False  # scored at all that the config names, or at the one that RL trains at alone

    @property
    def name(self) -> str:
        return f"{self.study.name}, seed {self.seed}"

    @property
    def table(self) -> Path:
        """The folder whose results.json gets the rows."""
        return demo_folder(self.runs, self.seed)

    @property
    def folder(self) -> Path:
        return self.study.folder(self.runs, self.seed)

    def config(self) -> Config:
        """Raises ConfigError."""
        return load(self.study.config_file, self._fields(load(self.study.config_file)))

    def _fields(self, base: Config) -> list[str]:
        scored = [] if self.all_temperatures else [f"eval.temperatures={base.rl.temperature}"]
        return [f"seed={self.seed}", *scored, *self.overrides, *self.study.overrides]

    def commands(self) -> list[list[str]]:
        """The command lines, without the interpreter."""
        config, common = self.config(), ["--results", str(self.table), "--name", self.study.name]
        if not self.study.scores:
            command = ["asyncthink_jax.train", "--config", str(self.study.config_file), "--workdir", str(self.folder)]
            if self.study.cold_start:
                command += ["--cold_start", str(BY_NAME[self.study.cold_start].folder(self.runs, self.seed))]
            fields = self._fields(load(self.study.config_file))
            return [[*command, *common, *(f"--config.{field}" for field in fields)]]
        changed = [f"--config.{field}" for field in self.study.overrides]
        command = ["asyncthink_jax.evaluate", "--workdir", str(self.folder), *common, *changed]
        return [[*command, "--temperature", str(temperature)] for temperature in config.eval.temperatures]

    def is_done(self) -> bool:
        """Whether the rows exist. Raises ConfigError if the folder holds a run of another config."""
        config, saved = self.config(), self.folder / "config.json"
        if not saved.exists():
            return False
        if not self.study.scores:
            changed = differences(saved_config(saved), config)
            if changed:
                raise ConfigError(
                    f"{self.folder} holds a run of another config; name another --runs. " + "; ".join(changed)
                )
        stages = ["after_sft", "after_rl"] if config.rl.iterations else ["after_sft"]
        stages = ["after_rl"] if self.study.scores else stages
        rows = read_results(self.table)["paradigms"].get(self.study.name, {})
        return all_measured(rows, stages, config.eval)


class FailedError(Exception):
    """A run ended with an error, which the run itself has reported."""


class StoppedError(Exception):
    """This process was asked to stop, and the current run has stopped."""

    def __init__(self, number: int):
        self.number = number


class Runner:
    """Starts commands one after the other, and passes requests to stop on to them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_by: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._asked)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        # SIGTERM, which a run that isn't listening yet obeys without a traceback. A second Ctrl-C ends it at once.
        if self._process is not None and self._asked_by is None:
            self._process.send_signal(signal.SIGTERM)
        elif self._process is not None and number == signal.SIGINT:
            self._process.send_signal(signal.SIGINT)
        self._asked_by = self._asked_by or number

    def __call__(self, command: Sequence[str]) -> int:
        """Returns the exit code. Raises StoppedError if a signal has arrived by then."""
        if self._asked_by is None:
            # A group of its own: of a terminal's Ctrl-C it hears from us alone, and so once.
            self._process = subprocess.Popen([*PYTHON, *command], process_group=0)
            if self._asked_by is not None:  # while it was being started
                self._process.send_signal(signal.SIGTERM)
            code = self._process.wait()
            self._process = None
        if self._asked_by is not None:
            raise StoppedError(self._asked_by)
        return code


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--only", default="tiny", help=f"studies, or parts ({', '.join(PARTS)}), separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="at most this number of seeds of each study")
    parser.add_argument("--seed", type=int, help="only this seed")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs' folders")
    parser.add_argument(
        "--all_temperatures",
        action="store_true",
        help="score at all of eval.temperatures; default: at that of RL alone",
    )
    parser.add_argument("--nokeep", action="store_true", help="leave experiments/results and the tables as they are")
    parser.add_argument("--dry_run", action="store_true", help="only print the commands")
    arguments, overrides = split_argv(list(argv))
    flags = parser.parse_args(arguments)
    try:
        steps = _steps(flags, tuple(overrides))
        left = [step for step in steps if not step.is_done()]
    except ConfigError as error:
        complain(f"error: {error}")
        return 2
    if flags.dry_run:
        print(_plan(steps, left))
        return 0
    try:
        _run(steps, left)
    except FailedError as error:
        complain(f"error: {error}")
        return 1
    except StoppedError as stopped:
        complain("the studies have stopped; the same command goes on with what is left")
        return 130 if stopped.number == signal.SIGINT else 0
    # Only now: while runs go on, no file may change that belongs to the commit which they name.
    if not flags.nokeep and not overrides:
        from experiments import table  # it reads the results

        for path in keep(steps, RESULTS):
            print(f"wrote {path}")
        for path in table.write():
            print(f"wrote the tables of {path}")
    return 0


def _steps(flags: argparse.Namespace, overrides: tuple[str, ...]) -> list[Step]:
    """Raises ConfigError."""
    names = [name.strip() for name in flags.only.split(",") if name.strip()]
    known = [*PARTS, *BY_NAME]
    for name in names:
        if name not in known:
            raise ConfigError(f"--only: no study or part {name!r}{did_you_mean(name, known)}")
    if flags.seeds < 1 or (flags.seed or 0) < 0:
        raise ConfigError("--seeds must be 1 or more, and --seed 0 or more")
    if not names:
        raise ConfigError("--only is empty; name studies or parts")
    if not flags.runs.resolve().parent.is_dir():
        raise ConfigError(f"--runs {flags.runs}: {flags.runs.resolve().parent} does not exist")
    runs = runs_of(names, flags.seeds, flags.seed)
    return [Step(study, seed, flags.runs, overrides, flags.all_temperatures) for study, seed in runs]


def _plan(steps: Sequence[Step], left: Sequence[Step]) -> str:
    """The plan as text: a line for each run, its commands below it."""
    lines = []
    for number, step in enumerate(steps, 1):
        state = f"{step.study.minutes:g} min" if step in left else "finished"
        lines.append(f"{number}/{len(steps)} {step.name}: {step.study.shows} ({state})")
        if step in left:
            lines += [f"    python -m {shlex.join(command)}" for command in step.commands()]
    return "\n".join([*lines, f"{len(left)} of {len(steps)} runs left, {hours(expected(left))} on two quiet cores"])


def _run(steps: Sequence[Step], left: Sequence[Step]) -> None:
    """Runs the unfinished steps. Raises FailedError or StoppedError."""
    start, spent, planned = Runner(), 0.0, 0.0
    for number, step in enumerate(steps, 1):
        where = f"{number}/{len(steps)} {step.name}"
        if step not in left:
            print(f"{where}: finished", flush=True)
            continue
        # What this machine takes for a minute of the plan, as soon as it is known.
        pace = spent / planned if planned else 1.0
        rest = left[left.index(step) :]
        after = f"then {len(rest) - 1} more" if len(rest) > 1 else "the last one"
        print(
            f"\n{where}: {step.study.shows}\n{where}: about {hours(pace * step.study.minutes)}, {after}; "
            f"{hours(pace * expected(rest))} left in all",
            flush=True,
        )
        began, is_new = time.monotonic(), bool(step.study.scores) or not step.folder.exists()
        step.table.mkdir(parents=True, exist_ok=True)
        for command in step.commands():
            code = start(command)
            if code:
                raise FailedError(
                    f"{step.name} ended with exit code {code} (python -m {shlex.join(command)}); when that is mended, "
                    "the same command goes on from here"
                )
        if not step.is_done():
            raise FailedError(f"{step.name} ended without an error, but its rows are not in {step.table}/results.json")
        if is_new:
            spent += (time.monotonic() - began) / 60
            planned += step.study.minutes
    print(f"\n{len(steps)} of {len(steps)} runs are finished", flush=True)


def expected(steps: Iterable[Step]) -> float:
    """Minutes on two idle cores."""
    return sum(step.study.minutes for step in steps)


def keep(steps: Iterable[Step], folder: Path) -> list[Path]:
    """Copies the rows of these runs into the files of `folder`, one for each seed; returns the files written.

    Rows at temperatures that these runs were not scored at stay; each has its own commit and date. The other fields of
    a file (commit, date, hardware, wall-clock) belong to the demo's own run, and change with its rows.
    """
    by_seed: dict[int, list[Step]] = {}
    for step in steps:
        by_seed.setdefault(step.seed, []).append(step)
    written = []
    for seed, made in by_seed.items():
        path, run = folder / f"{PREFIX}{seed}.json", read_results(made[0].table)
        kept = (
            read_object(path, f"take the committed one: git checkout {path}")
            if path.exists()
            else {**run, "paradigms": {}}
        )
        found = {step.study.name: run["paradigms"][step.study.name] for step in made}
        old = kept["paradigms"]
        rows = old | {name: old.get(name, {}) | stages for name, stages in found.items()}
        head = run if "async" in found else kept
        result = {**head, "paradigms": {name: rows[name] for name in BY_NAME if name in rows}}
        replace_text(path, json.dumps(result, indent=2) + "\n")
        written.append(path)
    return written


if __name__ == "__main__":
    prepare_streams()
    with ending():
        sys.exit(main(sys.argv[1:]))
