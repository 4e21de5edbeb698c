"""Trains: cold start, reinforcement learning, evaluation, figures. Goes on where it was stopped.

    python -m asyncthink_jax.train --config experiments/countdown_tiny.py --workdir runs/countdown_tiny
    python -m asyncthink_jax.train --config .. --workdir .. --config.rl.learning_rate=1e-4 --config.seed=1

Every field of the config can be overridden as in the second line; the resolved config is saved with the run. Several
processes that run the same command train together, see parallel/multihost.py; the workdir is a folder that they share.
Exit codes: 0 done, or stopped by SIGTERM or a hangup with all saved; 1 if a process of several is lost or can't be
reached, or a bucket, if another machine has the run in it, or if a file can't be written, as on a full disk; 2 for what
can be told before anything expensive starts (one line on stderr); 3 if a loss, gradient, parameter or log-probability
isn't finite: the run has diverged, and would again (what is on disk is from before); 130 when interrupted.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from asyncthink_jax import command
from asyncthink_jax.config import Config, ConfigError, differences, load, saved_config, to_json
from asyncthink_jax.files import FileError, check_writable, locked, replace_text
from asyncthink_jax.parallel import multihost
from asyncthink_jax.parallel.multihost import ProcessError, first_goes_first, is_first, leaving_together, on_first
from asyncthink_jax.parallel.preemption import InterruptedRunError
from asyncthink_jax.shown import complain
from asyncthink_jax.storage import bucket
from asyncthink_jax.storage.start import is_longer, lengthened

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Python file with get_config(), or the config.json of a run.")
flags.DEFINE_string("workdir", None, "Folder of the run, or gs://..; made if its parent exists, gone on with if a run.")
flags.DEFINE_string("name", None, "Name of the row in results.json; default the config's paradigm.")
flags.DEFINE_string("cold_start", None, "Folder of a run of the same model whose finished cold start is taken.")
flags.DEFINE_string(
    "start_from",
    None,
    "Folder of a run, RL's included, whose parameters, tokenizer and prompts this one begins with; RUN@best (default), "
    "RUN@latest or RUN@cold_start. The same as --config.start_from.",
)
flags.DEFINE_bool(
    "extend",
    False,
    "Continue a run with more rl.iterations than it has, or more sft.steps if it has no RL. The learning rate of each "
    "further step is that of the longer schedule: where the shorter one had fallen, it rises again. The scores of the "
    "shorter run stay in results.json under the name NAME_<n>_iterations.",
)
flags.DEFINE_string("results", None, "Folder of the run whose results.json the row is added to; default the workdir.")
flags.DEFINE_bool("evaluate", True, "Score the test split and draw the figures at the end.")


def main(argv: list[str], overrides: list[str]) -> int:
    """Runs the command; returns its exit code."""
    started = time.monotonic()
    logging.set_verbosity(logging.WARNING)  # orbax tells of every file it touches
    try:
        multihost.start()
        config = first_goes_first(lambda: _config(argv, overrides))
        workdir = first_goes_first(lambda: bucket.local(FLAGS.workdir))
        name = FLAGS.name or config.paradigm
        with contextlib.ExitStack() as held:

            def take() -> None:
                _make_workdir(workdir)
                held.enter_context(_no_other_command(workdir))
                held.enter_context(bucket.held(workdir))
                bucket.fetch(workdir)
                _check_workdir(workdir, config)

            on_first(take)
            try:
                return _train(config, workdir, name, started)
            finally:
                if is_first():
                    bucket.send(workdir)
    except (ConfigError, FileError, FileNotFoundError, ProcessError) as error:
        return _refuse(error)
    except OSError as error:
        if error.filename is None:
            raise
        complain(f"error: {error.filename}: {error.strerror}; the same command goes on from the last checkpoint")
        return 1
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from the last checkpoint")
        return 130


def _config(argv: list[str], overrides: list[str]) -> Config:
    if len(argv) > 1:
        raise ConfigError(f"unexpected argument {argv[1]!r}; options start with --")
    for name in ("config", "workdir"):
        if getattr(FLAGS, name) is None:
            raise ConfigError(f"--{name} is missing; see --help")
    if FLAGS.start_from is not None:
        overrides = [*overrides, f"start_from={FLAGS.start_from}"]
    config = load(FLAGS.config, overrides)
    if config.rl.iterations and config.rl.format_penalty > -config.rl.wrong_penalty:  # older runs can still be scored
        raise ConfigError(
            f"rl.format_penalty is {config.rl.format_penalty:g}, but an answer that is all wrong earns "
            f"-rl.wrong_penalty, {-config.rl.wrong_penalty:g}: no format error may earn more than that"
        )
    if FLAGS.cold_start and config.start_from:
        raise ConfigError("--cold_start takes a cold start instead of training one, so nothing begins at start_from")
    return config


def _train(config: Config, workdir: Path, name: str, started: float) -> int:
    # Imported late, so that a wrong config is reported sooner.
    import jax

    from asyncthink_jax.model.tensors import WeightsError
    from asyncthink_jax.play.run_model import mesh_of
    from asyncthink_jax.storage.checkpoint import CheckpointError
    from asyncthink_jax.storage.metrics import Progress, print_results
    from asyncthink_jax.storage.results import all_measured, read_results
    from asyncthink_jax.training.finite import DivergedError
    from asyncthink_jax.training.run import Run

    table = Path(FLAGS.results) if FLAGS.results else workdir
    taught_by = bucket.local(FLAGS.cold_start) if FLAGS.cold_start else None
    stages = ["after_sft", "after_rl"] if config.rl.iterations else ["after_sft"]

    def all_done() -> bool:
        if not table.is_dir():
            raise ConfigError(f"--results {table} is no folder; name that of the run whose table the row goes into")
        check_writable(table)  # else that would be found at the very end
        rows = read_results(table)["paradigms"].get(name, {})
        if rows and not (workdir / "config.json").exists():
            raise ConfigError(f"{table} has rows of {name!r}, which this run has not made: give it another --name")
        if FLAGS.extend and is_longer(_saved(workdir), config):
            return False
        return FLAGS.evaluate and all_measured(rows, stages, config.eval)

    if on_first(all_done):
        if is_first():
            print_results(read_results(table))
        return 0
    jax.config.update("jax_threefry_partitionable", True)
    with Progress({"sft": config.sft.steps, "rl": config.rl.iterations}, quiet=not is_first()) as progress:
        try:
            mesh = mesh_of(config)
            built = first_goes_first(lambda: _build(config, workdir, mesh, table, name))
            shared = (InterruptedRunError, DivergedError)
            refusals = (CheckpointError, WeightsError, ConfigError, FileError, OSError)
            # The inner one ends all processes on an error before the outer one waits for pending checkpoint writes.
            with (
                leaving_together(*shared, refusals=refusals),
                Run(built, workdir, progress, name, table, taught_by) as run,
                leaving_together(*shared, refusals=refusals),
            ):
                run.preemption.listen()
                run.seconds.setdefault("setup", round(time.monotonic() - started, 1))
                learned = run.reinforce(run.cold_start())
                if FLAGS.evaluate:
                    run.evaluate("after_sft", run.cold_start())  # read again: RL took its arrays over
                    if config.rl.iterations:
                        run.evaluate("after_rl", learned)
        except (CheckpointError, WeightsError, DivergedError) as error:
            return _refuse(error)
        except InterruptedRunError:
            if is_first():
                complain("stopped on request; the same command goes on from here")
            return run.preemption.exit_code
    if FLAGS.evaluate and is_first():
        _draw(workdir, [table] if table != workdir else [])
        if table != workdir:
            _draw(table)  # with the new row
        print_results(read_results(table))
    return 0


def _build(config: Config, workdir: Path, mesh: Any, table: Path, name: str) -> Any:
    from asyncthink_jax.storage.results import set_scores_aside
    from asyncthink_jax.storage.texts import record_set_up
    from asyncthink_jax.training.experiment import build

    saved = workdir / "config.json"
    if not is_first():
        bucket.fetch(workdir)
        if not saved.exists():
            raise ConfigError(f"workdir {workdir} is not the same folder for all processes; name one that they share")
    built = build(config, workdir, mesh)
    if config.sft.steps and not FLAGS.cold_start:
        built.check_demonstrations(config.sft.row_length)
    if config.rl.iterations and config.rl.imitated_demonstrations:
        built.check_demonstrations(config.rl.row_length)
    if config.rl.iterations and not built.splits["train"]:
        raise ConfigError(f"task: {config.task.name} has no training problems here: name some, or set rl.iterations=0")
    before = _saved(workdir) if saved.exists() else None
    if before is not None and FLAGS.extend and is_longer(before, config):
        set_scores_aside(table, name, before, config)
        before = None
    if before is None:  # not sooner: a refused command leaves the folder as it was
        replace_text(saved, to_json(config))
        record_set_up(workdir)
        bucket.send(workdir)  # the other processes' hosts have copies of their own
    return built


def _draw(workdir: Path, compare: Sequence[Path] = ()) -> None:
    """Writes the report. All that is in it is saved by now: what is wrong with a file of it costs a warning alone."""
    from asyncthink_jax.report.run_files import ReportError
    from asyncthink_jax.report.write import write_report

    try:
        write_report(workdir, compare=compare)
    except Exception as error:
        told = str(error) if isinstance(error, ReportError) else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.filename:
            told = f"{error.filename}: {error.strerror}"
        complain(f"warning: no report of {workdir} was written: {told}")


def _make_workdir(workdir: Path) -> None:
    """Raises ConfigError where none can be made or written."""
    try:
        _make_folder(workdir)
    except OSError as error:
        raise ConfigError(f"workdir {workdir} can't be made: {error.strerror}") from error
    check_writable(workdir)


def _make_folder(workdir: Path) -> None:
    parent = workdir.resolve().parent
    if not parent.is_dir():
        # `runs/` beside the checkout is made; a whole missing path is more likely a typing error.
        if not parent.parent.is_dir():
            raise ConfigError(f"workdir {workdir}: {parent} does not exist; make it, or name another folder")
        parent.mkdir()
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir {workdir} is a file; name a folder")
    workdir.mkdir(exist_ok=True)


def _check_workdir(workdir: Path, config: Config) -> None:
    """Raises ConfigError if the run in it is of another config."""
    where = bucket.place(workdir) or workdir
    if not (workdir / "config.json").exists():
        if FLAGS.extend:
            raise ConfigError(f"--extend: workdir {where} holds no run to continue")
        return
    saved = _saved(workdir)
    changed = differences(lengthened(saved, config) if FLAGS.extend else saved, config)
    if changed:
        longer = config.sft.steps >= saved.sft.steps and config.rl.iterations >= saved.rl.iterations
        longer = longer and all(line.startswith(("sft.steps:", "rl.iterations:")) for line in changed)
        hint = "; --extend makes the run longer" if longer and not FLAGS.extend else ""
        raise ConfigError(f"{where} holds a run of another config; use a new folder. " + "; ".join(changed) + hint)


def _saved(workdir: Path) -> Config:
    return saved_config(workdir / "config.json")


@contextlib.contextmanager
def _no_other_command(workdir: Path) -> Iterator[None]:
    """Keeps a second command out of the folder, where both would write the same files; a kill lets it in again."""
    with locked(workdir, wait=False) as alone:
        if not alone:
            raise ConfigError(f"workdir {workdir} is in use by another process; wait for it, or name another folder")
        yield


def _refuse(error: Exception) -> int:
    if is_first():  # process 0 also reports errors raised on the others
        complain(f"error: {error}")
    return getattr(error, "exit_code", 2)


if __name__ == "__main__":
    command.run(main)
