"""Scores a checkpoint of a run: any paradigm, split, number of problems, samples and temperature.

    python -m asyncthink_jax.evaluate --workdir runs/countdown_tiny
    python -m asyncthink_jax.evaluate --workdir runs/countdown_tiny --split validation --checkpoint cold_start \\
        --problems 100 --samples 4 --temperature 1.0
    python -m asyncthink_jax.evaluate --workdir runs/countdown_tiny_sequential --paradigm parallel \\
        --results runs/countdown_tiny

Prints mean and standard error, and writes `eval/<name>/episodes.jsonl` and `scores.json` into the run's folder, where
<name> says what was scored (a long one ends in a digest). With --results the scores become a row of a results.json too,
"after_sft" or "after_rl" by the checkpoint. Several processes score together, as they train. Exit codes: 0 done, 1 if a
process of several is lost or can't be reached, or a bucket, or if a file can't be written, as on a full disk, 2 for bad
input (one line on stderr), 130 when interrupted or asked to stop.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from absl import flags, logging

from asyncthink_jax import command
from asyncthink_jax.config import CHECKPOINTS, PARADIGMS, Config, ConfigError, load
from asyncthink_jax.files import FileError, check_writable, locked, name_of, replace_text, sealed
from asyncthink_jax.parallel import multihost
from asyncthink_jax.parallel.multihost import ProcessError, first_goes_first, is_first, leaving_together, on_first
from asyncthink_jax.parallel.preemption import InterruptedRunError, Preemption
from asyncthink_jax.sections import LARGEST
from asyncthink_jax.shown import complain
from asyncthink_jax.storage import bucket

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the run, or gs://...")
flags.DEFINE_string("paradigm", None, f"One of {', '.join(PARADIGMS)}; default the run's own.")
flags.DEFINE_string("checkpoint", "best", f"One of {', '.join(CHECKPOINTS)}: which parameters are scored.")
flags.DEFINE_string("split", "test", "One of the task's: train, validation, test, ..")
flags.DEFINE_integer("problems", 0, "Evaluate the first N problems of the split; 0 = all.", lower_bound=0)
flags.DEFINE_integer("samples", 1, "Episodes a problem (greedy takes one).", lower_bound=1)
flags.DEFINE_float("temperature", None, "Of the sampling, 0 = greedy; default the one RL trains at.", lower_bound=0.0)
flags.DEFINE_string("results", None, "Folder of the run whose results.json the scores are added to; default none.")
flags.DEFINE_string("name", None, "Name of their row in it; default the paradigm.")


def main(argv: list[str], overrides: list[str]) -> int:
    """Runs the command; returns its exit code."""
    logging.set_verbosity(logging.WARNING)
    try:
        multihost.start()
        with contextlib.ExitStack() as held:
            config = first_goes_first(lambda: _config(argv, overrides, held))
            return _evaluate(config, bucket.local(FLAGS.workdir), overrides, held)
    except (ConfigError, FileError, ProcessError) as error:
        if is_first():
            complain(f"error: {error}")
        return getattr(error, "exit_code", 2)


def _config(argv: list[str], overrides: list[str], held: contextlib.ExitStack) -> Config:
    if len(argv) > 1:
        raise ConfigError(f"unexpected argument {argv[1]!r}; options start with --")
    if FLAGS.workdir is None:
        raise ConfigError("--workdir is missing; see --help")
    if FLAGS.temperature is not None and not 0 <= FLAGS.temperature <= LARGEST:
        raise ConfigError(f"--temperature is {FLAGS.temperature}, but must be a number from 0")
    if FLAGS.checkpoint not in CHECKPOINTS:
        raise ConfigError(f"--checkpoint {FLAGS.checkpoint!r} is not one of {', '.join(CHECKPOINTS)}")
    if FLAGS.results is not None and not Path(FLAGS.results).is_dir():
        raise ConfigError(f"--results {FLAGS.results} is no folder; name that of the run whose table the row goes into")
    workdir = bucket.local(FLAGS.workdir)
    # A bucket is read after what costs nothing to check, and not while the run trains here: then this copy is newer.
    if bucket.place(workdir) is not None and held.enter_context(locked(workdir, wait=False)):
        bucket.fetch(workdir)
    saved = workdir / "config.json"
    if not saved.is_file():
        raise ConfigError(f"--workdir {FLAGS.workdir} holds no run (no config.json in it)")
    changes = [f"paradigm={FLAGS.paradigm}"] if FLAGS.paradigm else []
    config = load(saved, [*changes, *overrides])
    if FLAGS.split not in config.task.split_names:
        raise ConfigError(f"--split {FLAGS.split!r} is not one of {', '.join(config.task.split_names)}")
    return config


def _evaluate(config: Config, workdir: Path, overrides: list[str], held: contextlib.ExitStack) -> int:
    # Imported late, so that bad input is reported sooner.
    from asyncthink_jax.model.tensors import WeightsError
    from asyncthink_jax.play.run_model import mesh_of
    from asyncthink_jax.storage.checkpoint import CheckpointError
    from asyncthink_jax.storage.metrics import Progress, print_results
    from asyncthink_jax.storage.provenance import provenance
    from asyncthink_jax.storage.restore import restore_params
    from asyncthink_jax.storage.results import changing_results, evaluation_rows, read_results, write_episodes
    from asyncthink_jax.training.evaluation import evaluate
    from asyncthink_jax.training.experiment import build

    temperature = config.rl.temperature if FLAGS.temperature is None else FLAGS.temperature
    about = [config.paradigm, FLAGS.checkpoint, FLAGS.split, f"t{temperature:g}", *sorted(overrides)]
    folder = workdir / "eval" / name_of("_".join(about))

    def take() -> None:
        """What would go wrong at the end shall do so now."""
        held.callback(_remove_empty, folder)
        check_writable(folder)
        if not held.enter_context(locked(folder, wait=False)):
            raise ConfigError(f"{folder} is being written by another process; wait for it")
        if FLAGS.results is not None:
            check_writable(Path(FLAGS.results))
            read_results(Path(FLAGS.results))

    def write(scores: dict[str, Any], episodes: list[Any]) -> None:
        write_episodes(folder, episodes, built.tokenizer)
        replace_text(folder / "scores.json", json.dumps(sealed(scores), indent=2) + "\n")

    def add_row(table: Path, scores: dict[str, Any]) -> None:
        # A temperature that is not the config's own has a name of its own.
        after = "after_sft" if FLAGS.checkpoint == "cold_start" else "after_rl"
        rows = evaluation_rows(after, (*config.eval.temperatures, temperature))
        row = next(name for name, one in rows.items() if one == temperature)
        with changing_results(table) as results:
            results["paradigms"].setdefault(FLAGS.name or config.paradigm, {})[row] = scores

    on_first(take)
    mesh = mesh_of(config)
    built = first_goes_first(lambda: build(config, workdir, mesh))
    problems = len(built.splits[FLAGS.split][: FLAGS.problems or None])
    traces = config.pool.parallel_traces if config.paradigm == "parallel" else 1
    total = problems * traces * (FLAGS.samples if temperature > 0 else 1)
    started = time.monotonic()
    preemption = Preemption()
    preemption.listen()
    try:
        with leaving_together(InterruptedRunError, refusals=(CheckpointError, WeightsError)):
            params = restore_params(built.abstract_params(), workdir, FLAGS.checkpoint)
            with Progress({"eval": total}, quiet=not is_first()) as progress:
                scores, episodes = evaluate(
                    built,
                    params,
                    FLAGS.split,
                    temperature,
                    FLAGS.problems,
                    FLAGS.samples,
                    progress=lambda done: progress.update("eval", done, {}),
                    poll=preemption.poll,
                )
    except (CheckpointError, WeightsError) as error:
        raise ConfigError(str(error), getattr(error, "exit_code", 2)) from error
    except InterruptedRunError:
        if is_first():
            complain("interrupted; nothing has been written")
        return 130
    if not is_first():
        return 0
    made = provenance() | {"wall_clock_s": {"eval": round(time.monotonic() - started, 1)}}
    with contextlib.ExitStack() as last:  # from the last one up, each even if another fails
        last.callback(bucket.send, workdir)
        if FLAGS.results is not None:
            last.callback(add_row, Path(FLAGS.results), scores | made)
        last.callback(write, scores | provenance(), episodes)
        # First, where all can be seen that has been computed.
        last.callback(print_results, {"paradigms": {config.paradigm: {FLAGS.checkpoint: scores}}} | made)
    return 0


def _remove_empty(folder: Path) -> None:
    for one in (folder, folder.parent):
        with contextlib.suppress(OSError):
            one.rmdir()


if __name__ == "__main__":
    command.run(main)
