"""A run: cold start, reinforcement learning, evaluation, each going on exactly where a kill has left it.

Whatever a step depends on is either in the checkpoint (parameters, optimizer, the data iterators' states) or a function
of the seed and the step's number (all random numbers). So a run that was killed and resumed ends with the same bits
on the same machine.

One that is asked to stop ends the step it is in and saves. A rollout it gives up: that takes longer than who asks may
wait, and the resumed run samples the same episodes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from asyncthink_jax.data import pipeline
from asyncthink_jax.files import name_of
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.parallel.multihost import is_first, on_first
from asyncthink_jax.parallel.preemption import InterruptedRunError, Preemption
from asyncthink_jax.play.episodes import means
from asyncthink_jax.storage import bucket
from asyncthink_jax.storage.checkpoint import CheckpointError, Checkpoints, Restored
from asyncthink_jax.storage.metrics import MetricsWriter, Progress
from asyncthink_jax.storage.provenance import provenance
from asyncthink_jax.storage.restore import cold_start_checkpoints, restore_params
from asyncthink_jax.storage.results import (
    changing_results,
    evaluation_rows,
    measured_so,
    read_results,
    write_episodes,
)
from asyncthink_jax.storage.start import Start
from asyncthink_jax.training import sft
from asyncthink_jax.training.evaluation import evaluate
from asyncthink_jax.training.experiment import Experiment
from asyncthink_jax.training.finite import DivergedError, NonFiniteError, Skips, check_attempts, remedies
from asyncthink_jax.training.grpo import Grpo
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.optimizer_step import OptimizerStep, TrainState, abstract_state, new_state


class Run:
    """The stages of one run in `workdir`, its checkpoints, metrics and results.

    Args:
        experiment: the parts, built.
        workdir: the folder of the run; what is in there already is gone on with.
        progress: shows what is done.
        name: of the run's rows in results.json, and of its folder under `eval/`.
        results: folder of the results.json that the rows go into; default `workdir`.
        taught_by: folder of a run of the same model whose cold start is taken, unless this one has one already.

    With several processes all of them call the same methods; the first alone writes files, beside the checkpoints.
    Where the run is asked to stop, they raise InterruptedRunError: what is done is saved, and the same command goes on.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        progress: Progress,
        name: str,
        results: Path | None = None,
        taught_by: Path | None = None,
    ):
        self.experiment, self.config, self.workdir, self.progress = experiment, experiment.config, workdir, progress
        self.name, self.results, self.taught_by = name, results or workdir, taught_by
        with ExitStack() as opened:  # closed at once if one of them can't be opened
            folder = bucket.checkpoints(workdir)
            self.checkpoints = opened.enter_context(Checkpoints(folder, keep=self.config.checkpoint.keep))
            self.cold_start_checkpoint = opened.enter_context(cold_start_checkpoints(workdir))
            self._opened = opened.pop_all()
        self.seconds: dict[str, float] = {}
        self.metrics: MetricsWriter | None = None  # of the first process, once it is known what of them counts
        self.preemption = Preemption()
        self._begun = False
        self._start: int | None = None  # checksum of the cold start
        self._skips = Skips(0)

    # ------------------------------------------------------------------------------------------------ stage 1

    def cold_start(self) -> Params:
        """Supervised training on demonstrations, or what it has come to. Returns the parameters that RL starts from.

        Raises CheckpointError where RL has begun from a cold start that is no more.
        """
        config, experiment = self.config.sft, self.experiment
        finished = self.cold_start_checkpoint.restore(experiment.abstract_params()) or self._adopted()
        if finished is not None and not self._is_extended(finished):
            return finished.state
        del finished
        optimizer = make_optimizer(config, config.steps)
        batches = pipeline.demonstration_iterator(
            experiment.demonstrations, config.rows, config.row_length, self.config.seed
        )
        found = self._resume("sft", optimizer, batches)
        if found is not None:
            first, state = found.metadata["step"], found.state
        else:
            first, state = 0, new_state(self._first_params(), optimizer, experiment.mesh)
        loss = sft.make_loss(experiment.model, config)
        step = OptimizerStep(
            loss, optimizer, experiment.mesh, config.microbatches, experiment.frozen, config.skip_nonfinite > 0
        )
        self._skips = Skips(config.skip_nonfinite, found.metadata.get("skipped", 0) if found else 0)
        with self._timed("sft"):
            # Without a step there may be no demonstrations either.
            batch = sft.normalised(next(batches)) if first < config.steps else {}
            for number in range(first + 1, config.steps + 1):
                started = time.monotonic()
                drawn = batches.get_state()
                state, numbers = step(state, batch)
                batch = sft.normalised(next(batches))  # while the devices compute
                numbers = jax.device_get(numbers)
                with self._ending_at("sft", number):
                    if self._skips.skipped(numbers):
                        numbers["skipped"] = 1
                numbers["tokens_per_second"] = config.rows * config.row_length / (time.monotonic() - started)
                self._report("sft", number, numbers)
                due = number % self.config.checkpoint.every_sft_steps == 0 or number == config.steps
                stops = self.preemption.reached()
                if due or stops:
                    self._save("sft", number, number, state, drawn)
                if stops:
                    raise InterruptedRunError
        self.checkpoints.wait()
        position = on_first(lambda: self.metrics.position if self.metrics is not None else 0)
        about = {"seconds": self.seconds, "position": position, "own": True}
        self.cold_start_checkpoint.save(config.steps, state.params, about)
        self.cold_start_checkpoint.wait()
        return state.params

    def _first_params(self) -> Params:
        """What training begins with."""
        if not self.config.start_from:
            return self.experiment.new_params()
        start = Start.of(self.config)
        return restore_params(self.experiment.abstract_params(), bucket.local(start.run), start.which)

    def _is_extended(self, finished: Restored) -> bool:
        """Whether this run's own cold start has more steps by now than it had when it ended."""
        return finished.metadata.get("own", False) and finished.step < self.config.sft.steps

    def _adopted(self) -> Restored | None:
        """The cold start of the run `taught_by`, now also one's own."""
        if self.taught_by is None:
            return None
        with cold_start_checkpoints(self.taught_by, read_only=True) as checkpoints:
            found = checkpoints.restore(self.experiment.abstract_params())
        if found is None:
            raise CheckpointError(f"no finished cold start in {self.taught_by}")
        seconds = {"sft": found.metadata["seconds"].get("sft", 0.0)}
        self.cold_start_checkpoint.save(found.step, found.state, {"seconds": seconds, "position": 0})
        self.cold_start_checkpoint.wait()
        return found

    # ------------------------------------------------------------------------------------------------ stage 2

    def reinforce(self, start: Params) -> Params:
        """GRPO from the cold start, which is donated. Returns the parameters with the best validation reward."""
        config, experiment, poll = self.config.rl, self.experiment, self.preemption.poll
        if config.iterations == 0:
            return start
        optimizer = make_optimizer(config, config.iterations * config.optimizer_steps)
        reference = jax.tree.map(lambda x: x.copy(), start) if config.kl else None
        problems = pipeline.problem_iterator(experiment.splits["train"], self.config.seed)
        held = [start]  # until another state takes its place
        del start
        found = self._resume("rl", optimizer, problems, held.clear)
        taught = self.cold_start_checkpoint.restore(None)
        self._start = None if taught is None else taught.checksum
        if found is not None:
            first, state, validates = found.metadata["step"], found.state, found.metadata.get("validates")
        else:
            start = held.pop() if held else self.cold_start()
            first, state, validates = 0, new_state(start, optimizer, experiment.mesh), False
        self._skips = Skips(config.skip_nonfinite, found.metadata.get("skipped", 0) if found else 0)
        grpo = Grpo(experiment, optimizer, reference, self._skips)
        on_disk = first  # the iteration that a resume would go on from
        with self._timed("rl"):
            # Orbax can't save a step twice: this validation is made once more where the next rollout is given up.
            if first and validates and not self._validate(first, state):
                raise InterruptedRunError
            for number in range(first + 1, config.iterations + 1):
                before = problems.get_state()
                try:
                    with self._ending_at("rl", number):
                        state, numbers = grpo.iteration(number, state, problems, poll, may_stop=on_disk == number - 1)
                except InterruptedRunError:  # as if it had not begun: a resume samples the same again
                    if on_disk < number - 1:
                        self._save("rl", number - 1, self.config.sft.steps + number - 1, state, before)
                    raise
                self._report("rl", number, numbers)
                stops = self.preemption.reached()
                validates = number % self.config.eval.validate_every == 0 or number == config.iterations
                if validates and not stops:
                    validates = stops = not self._validate(number, state)
                due = number % self.config.checkpoint.every_rl_iterations == 0 or number == config.iterations
                if due or stops:
                    step = self.config.sft.steps + number
                    self._save("rl", number, step, state, problems.get_state(), validates)
                    on_disk = number
                if stops:
                    raise InterruptedRunError
        self.checkpoints.wait()
        best = self.checkpoints.restore_best(self.experiment.abstract_params())
        return state.params if best is None else best.state

    def _validate(self, number: int, state: TrainState) -> bool:
        """Scores the validation split; the parameters with the best reward so far are kept.

        False if it was given up, because the run was asked to stop.
        """
        config, poll = self.config, self.preemption.poll
        problems, temperature = config.eval.validation_problems, config.rl.temperature
        try:
            scores, attempts = evaluate(self.experiment, state.params, "validation", temperature, problems, poll=poll)
        except InterruptedRunError:
            return False
        with self._ending_at("rl", number):
            check_attempts(attempts)
        self._write("validation", number, means(scores))
        self.checkpoints.save_best(number, state.params, {"iteration": number}, metric=scores["reward"])
        return True

    # --------------------------------------------------------------------------------------------- evaluation

    def evaluate(self, after: str, params: Params) -> None:
        """Scores `params` on the test split at each temperature, where results.json has no row of it yet."""
        config, poll = self.config.eval, self.preemption.poll
        done = on_first(lambda: read_results(self.results)["paradigms"].get(self.name, {}))
        spent = [row["wall_clock_s"].get("eval", 0.0) for row in done.values() if row and "wall_clock_s" in row]
        self.seconds.setdefault("eval", max(spent, default=0.0))  # what earlier sittings have taken
        for place, (row, temperature) in enumerate(evaluation_rows(after, config.temperatures).items()):
            if measured_so(done.get(row), temperature, config.samples):
                continue
            with self._timed("eval"):
                scores, attempts = evaluate(
                    self.experiment, params, "test", temperature, config.problems, config.samples, poll=poll
                )
            if is_first() and place == 0:
                write_episodes(self.workdir / "eval" / name_of(self.name), attempts, self.experiment.tokenizer)
            if is_first():
                self._add_row(row, scores)

    def _add_row(self, row: str, scores: dict[str, Any]) -> None:
        made = provenance() | {"wall_clock_s": self._wall_clock()}
        with changing_results(self.results) as results:
            results["paradigms"].setdefault(self.name, {})[row] = scores | made
            if self.results == self.workdir:
                results |= made
        bucket.send(self.workdir)

    # ------------------------------------------------------------------------------------------------- common

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for what is being saved and closes the files."""
        self._opened.close()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Counts the wall-clock of a stage, over all the sittings it takes."""
        before, self._started = self.seconds.get(stage, 0.0), time.monotonic()
        self._counts = (stage, before)
        try:
            yield
        finally:
            self._count()

    def _count(self) -> None:
        stage, before = self._counts
        self.seconds[stage] = before + time.monotonic() - self._started

    def _wall_clock(self) -> dict[str, float]:
        return {stage: round(self.seconds.get(stage, 0.0), 1) for stage in ("setup", "sft", "rl", "eval")}

    def _report(self, stage: str, number: int, numbers: dict[str, Any]) -> None:
        self._write(stage, number, numbers)
        self.progress.update(stage, number, numbers)

    def _write(self, stage: str, number: int, numbers: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(stage, number, numbers)

    @contextmanager
    def _ending_at(self, stage: str, number: int) -> Iterator[None]:
        """Ends the run, and with it all processes, where a number of this step isn't finite: nothing of it is saved."""
        try:
            yield
        except NonFiniteError as error:
            self.checkpoints.wait()
            good = self.checkpoints.restore(None) or self.cold_start_checkpoint.restore(None)
            kept = f"the last good checkpoint is {good.folder}" if good else "there is no checkpoint yet"
            fields = getattr(self.config, stage)
            line = (
                f"{stage} has diverged at step {number}: {error}; {kept}; in a new run lower {remedies(stage, fields)}"
            )
            if error.can_be_left_out:
                more = self._skips.count + 10
                line += f", or go on with --config.{stage}.skip_nonfinite={more}, which leaves such updates out"
            raise DivergedError(line) from error

    def _save(self, stage: str, number: int, step: int, state: TrainState, data: Any, validates: bool = False) -> None:
        """Saves the state after step `number` of a stage; `validates`: what is to come next is its validation."""
        self._count()
        if is_first():
            bucket.send(self.workdir)  # before the checkpoint, which counts on it
        own = {"position": self.metrics.position, "seconds": self.seconds} if self.metrics is not None else {}
        common = {"stage": stage, "step": number, "data": data, "validates": validates, "cold_start": self._start}
        common["skipped"] = self._skips.count
        # The same for all: which process writes it is up to orbax.
        self.checkpoints.save(step, state, common | on_first(lambda: own))

    def _resume(
        self, stage: str, optimizer: Any, data: Any, before_reading: Callable[[], None] = lambda: None
    ) -> Restored | None:
        """What a stage goes on from, None if it begins; `data`, its iterator, and the metrics are set to that point.

        Raises CheckpointError if what is saved is no point of this stage, or of none that this run has.
        """
        if self._begun:  # the stage before has ended just now
            return None

        def wanted(saved: dict[str, Any]) -> TrainState | None:
            if saved["stage"] != stage:
                return None
            before_reading()
            return abstract_state(self.experiment.abstract_params(), optimizer, self.experiment.mesh)

        found, taught = self.checkpoints.restore(wanted), self.cold_start_checkpoint.restore(None)
        if found is not None:
            self._check_fits(found, taught)
        for record in filter(None, (taught, found)):
            self.seconds |= record.metadata["seconds"]
        if is_first():
            # Where the last of the cold start's steps are damaged, its end is still there.
            position = max((record.metadata.get("position", 0) for record in (taught, found) if record), default=0)
            self.metrics = self._opened.enter_context(MetricsWriter(self.workdir, position))
        self._begun = True
        if found is None or found.metadata["stage"] != stage:
            return None
        try:
            data.set_state(found.metadata["data"])
        except Exception as error:
            raise CheckpointError(f"checkpoint {found.folder} does not fit: its place in the data is none") from error
        return found

    def _check_fits(self, found: Restored, taught: Restored | None) -> None:
        """Raises CheckpointError for a checkpoint that is no point of this run, or that can't be gone on from."""
        stage, number = found.metadata["stage"], found.metadata["step"]
        sft, rl = self.config.sft.steps, self.config.rl.iterations
        before, steps = (sft, rl) if stage == "rl" else (0, sft)
        if found.step != before + number or number > steps:
            raise CheckpointError(f"checkpoint {found.folder} does not fit: it is of {stage} step {number} of {steps}")
        if stage == "rl" and taught is None:
            raise CheckpointError(
                f"{found.folder} is of RL, and the cold start that it began from is gone: give one of the same config "
                "by --cold_start; this command with another --workdir and --config.rl.iterations=0 trains it again"
            )
        if stage == "rl" and taught is not None:
            was, now = found.metadata.get("cold_start"), taught.checksum
            if None not in (was, now) and was != now:
                raise CheckpointError(f"{found.folder} began from another cold start than that in {taught.folder}")
