"""A run: cold start, reinforcement learning, evaluation, each going on exactly where a kill has left it.

Whatever a step depends on is either in the checkpoint (parameters, optimizer, the data iterators' states) or a function
of the seed and the step's number (all random numbers). So a run that was killed and resumed ends with the same bits.

One that is asked to stop ends the step it is in and saves. A rollout it gives up: that takes longer than who asks may
wait, and the resumed run samples the same episodes again.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asyncthink_jax.config import EvalConfig
from asyncthink_jax.data import packing, pipeline
from asyncthink_jax.data.tokenizer import Tokenizer
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.parallel.multihost import is_first, on_first
from asyncthink_jax.parallel.preemption import InterruptedRunError, Preemption
from asyncthink_jax.protocol.episode import Episode
from asyncthink_jax.report.metrics import MetricsWriter, Progress
from asyncthink_jax.tasks.task import Problem
from asyncthink_jax.training import bucket, rl, sft
from asyncthink_jax.training.checkpoint import CheckpointError, Checkpoints
from asyncthink_jax.training.evaluation import evaluate, play, summary
from asyncthink_jax.training.experiment import Experiment
from asyncthink_jax.training.files import locked, replace_text
from asyncthink_jax.training.logprobs import OldLogprobs
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.state import Batch, OptimizerStep, TrainState, abstract_state, new_state


class Run:
    """The stages of one run in `workdir`, its checkpoints, metrics and results.

    Args:
        experiment: the parts, built.
        workdir: the folder of the run; what is in there already is gone on with.
        progress: shows what is done.
        name: of the run's rows in results.json, and of its folder under `eval/`.
        results: folder of the results.json that the rows go into; default `workdir`.

    With several processes all of them call the same methods; the first alone writes files, beside the checkpoints.
    Where the run is asked to stop, they raise InterruptedRunError: what is done is saved, and the same command goes on.
    """

    def __init__(
        self, experiment: Experiment, workdir: Path, progress: Progress, name: str, results: Path | None = None
    ):
        self.experiment, self.config, self.workdir, self.progress = experiment, experiment.config, workdir, progress
        self.name, self.results = name, results or workdir
        with ExitStack() as opened:  # closed at once if one of them can't be opened
            folder = bucket.checkpoints(workdir)
            self.checkpoints = opened.enter_context(Checkpoints(folder, keep=self.config.checkpoint.keep))
            self.cold_start_checkpoint = opened.enter_context(cold_start_checkpoints(workdir))
            self.saved = self.checkpoints.latest_metadata() or {"stage": "sft", "step": 0, "position": 0, "seconds": {}}
            self.seconds: dict[str, float] = dict(self.saved["seconds"])
            self.metrics: MetricsWriter | None = None
            if is_first():
                self.metrics = opened.enter_context(MetricsWriter(workdir, self.saved["position"]))
            self._opened = opened.pop_all()
        self.preemption = Preemption()

    # ------------------------------------------------------------------------------------------------ stage 1

    def cold_start(self) -> Params:
        """Supervised training on demonstrations. Returns the parameters that RL starts from."""
        config, experiment = self.config.sft, self.experiment
        finished = self.cold_start_checkpoint.restore(self.experiment.abstract_params())
        if finished is not None:
            return finished.state
        optimizer = make_optimizer(config, config.steps)
        batches = pipeline.demonstration_iterator(
            experiment.demonstrations, config.rows, config.row_length, self.config.seed
        )
        if self.saved["step"]:
            first, state = self._restore(optimizer)
            batches.set_state(self.saved["data"])
        else:
            first, state = 0, new_state(experiment.new_params(), optimizer, experiment.mesh)
        loss = sft.make_loss(experiment.model, config)
        step = OptimizerStep(loss, optimizer, experiment.mesh, config.microbatches, experiment.frozen)
        with self._timed("sft"):
            # Without a step there may be no demonstrations either.
            batch = sft.normalised(next(batches)) if first < config.steps else {}
            for number in range(first + 1, config.steps + 1):
                started = time.monotonic()
                drawn = batches.get_state()
                state, numbers = step(state, batch)
                batch = sft.normalised(next(batches))  # while the devices compute
                numbers = jax.device_get(numbers)
                numbers["tokens_per_second"] = config.rows * config.row_length / (time.monotonic() - started)
                self._report("sft", number, numbers)
                due = number % self.config.checkpoint.every_sft_steps == 0 or number == config.steps
                stops = self.preemption.reached()
                if due or stops:
                    self._save("sft", number, number, state, drawn)
                if stops:
                    raise InterruptedRunError
        self.checkpoints.wait()
        self.cold_start_checkpoint.save(config.steps, state.params, {"seconds": self.seconds})
        self.cold_start_checkpoint.wait()
        return state.params

    def adopt_cold_start(self, other: Path) -> None:
        """Takes the cold start of another run of the same model instead of training one, unless it has one already."""
        metadata = self.cold_start_checkpoint.latest_metadata()
        if metadata is None:
            with cold_start_checkpoints(other, read_only=True) as checkpoints:
                found = checkpoints.restore(self.experiment.abstract_params())
            if found is None:
                raise FileNotFoundError(f"no finished cold start in {other}")
            metadata = found.metadata
            self.cold_start_checkpoint.save(found.step, found.state, metadata)
            self.cold_start_checkpoint.wait()
        self.seconds = {**metadata["seconds"], **self.seconds}

    # ------------------------------------------------------------------------------------------------ stage 2

    def reinforce(self, start: Params) -> Params:
        """GRPO from the cold start, which is donated. Returns the parameters with the best validation reward."""
        config, experiment = self.config.rl, self.experiment
        if config.iterations == 0:
            return start
        optimizer = make_optimizer(config, config.iterations * config.optimizer_steps)
        reference = jax.tree.map(lambda x: x.copy(), start) if config.kl else None
        problems = pipeline.problem_iterator(experiment.splits["train"], self.config.seed)
        if self.saved["stage"] == "rl":
            del start  # before another state takes its place
            first, state = self._restore(optimizer)
            problems.set_state(self.saved["data"])
        else:
            first, state = 0, new_state(start, optimizer, experiment.mesh)
        update = Update(self.experiment, optimizer, reference)
        on_disk = first  # the iteration that a resume would go on from
        with self._timed("rl"):
            # Orbax can't save a step twice: this validation is made once more where the next rollout is given up.
            if first and self.saved.get("validates") and not self._validate(first, state):
                raise InterruptedRunError
            for number in range(first + 1, config.iterations + 1):
                before = problems.get_state()
                chosen = [next(problems) for _ in range(config.prompts)]
                try:
                    state, numbers = self._iteration(number, state, chosen, update, on_disk == number - 1)
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

    def _iteration(
        self, number: int, state: TrainState, chosen: Sequence[Problem], update: Update, on_disk: bool
    ) -> tuple[TrainState, dict[str, Any]]:
        """Rollout and update; raises InterruptedRunError in the middle, of the update only if `state` is on disk."""
        config, poll = self.config.rl, self.preemption.poll
        started = time.monotonic()
        key = jax.random.fold_in(jax.random.key(self.config.seed), number)
        params = self.experiment.to_rollout_layout(state.params)
        played = play(
            self.experiment, params, chosen, config.group_size, key, config.temperature, merge=False, poll=poll
        )
        del params  # the update needs its memory
        rolled_out = time.monotonic()
        rng = np.random.default_rng((self.config.seed, number))
        state, numbers = update(state, played.episodes, rng, poll if on_disk else None)
        numbers |= means(summary(played.episodes, config.group_size, self.config.task.wanted))
        numbers["occupancy"] = played.occupancy
        numbers["rollout_seconds"] = rolled_out - started
        numbers["update_seconds"] = time.monotonic() - rolled_out
        numbers["tokens_per_second"] = played.decoded_tokens / (time.monotonic() - started)
        return state, numbers

    def _validate(self, number: int, state: TrainState) -> bool:
        """Scores the validation split; the parameters with the best reward so far are kept.

        False if it was given up, because the run was asked to stop.
        """
        config, poll = self.config, self.preemption.poll
        problems, temperature = config.eval.validation_problems, config.rl.temperature
        try:
            scores, _ = evaluate(self.experiment, state.params, "validation", temperature, problems, poll=poll)
        except InterruptedRunError:
            return False
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
                scores, episodes = evaluate(
                    self.experiment, params, "test", temperature, config.problems, config.samples, poll=poll
                )
            if is_first() and place == 0:
                write_episodes(self.workdir / "eval" / self.name, episodes, self.experiment.tokenizer)
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

    def _save(self, stage: str, number: int, step: int, state: TrainState, data: Any, validates: bool = False) -> None:
        """Saves the state after step `number` of a stage; `validates`: what is to come next is its validation."""
        self._count()
        if is_first():
            bucket.send(self.workdir)  # before the checkpoint, which counts on it
        own = {"position": self.metrics.position, "seconds": self.seconds} if self.metrics is not None else {}
        common = {"stage": stage, "step": number, "data": data, "validates": validates}
        # The same for all: which process writes it is up to orbax.
        self.checkpoints.save(step, state, common | on_first(lambda: own))

    def _restore(self, optimizer: Any) -> tuple[int, TrainState]:
        wanted = abstract_state(self.experiment.abstract_params(), optimizer, self.experiment.mesh)
        restored = self.checkpoints.restore(wanted)
        assert restored is not None
        return restored.metadata["step"], restored.state


def cold_start_checkpoints(workdir: Path, read_only: bool = False) -> Checkpoints:
    """Where a run keeps the end of its cold start."""
    return Checkpoints(bucket.checkpoints(workdir) / "cold_start", keep=1, read_only=read_only)


def restore_params(experiment: Experiment, workdir: Path, which: str) -> Params:
    """The parameters of the checkpoint `which` of a run: "best" (by validation reward), "latest" or "cold_start".

    Raises CheckpointError if there is none, or if it can't be read.
    """
    wanted = experiment.abstract_params()
    if which == "cold_start":
        with cold_start_checkpoints(workdir, read_only=True) as checkpoints:
            found = checkpoints.restore(wanted)
    else:
        with Checkpoints(bucket.checkpoints(workdir), read_only=True) as checkpoints:
            if which == "best":
                found = checkpoints.restore_best(wanted)
            else:
                state = checkpoints.restore({"params": wanted}, partial=True)
                found = None if state is None else dataclasses.replace(state, state=state.state["params"])
    if found is None:
        raise CheckpointError(f"{workdir} has no checkpoint {which!r} yet")
    return found.state


def write_episodes(folder: Path, episodes: Sequence[Episode], tokenizer: Tokenizer) -> None:
    """Writes `episodes.jsonl`, one episode a line, in the format that README.md describes."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "episodes.jsonl", "w", encoding="utf-8") as file:
        for episode in episodes:
            file.write(json.dumps(episode.to_json(tokenizer.decode), ensure_ascii=False) + "\n")


def means(scores: dict[str, Any]) -> dict[str, float]:
    """The plain numbers of a summary, under the names of report/metrics.py."""
    return {name: value for name, value in scores.items() if isinstance(value, float)}


class Update:
    """The training half of an RL iteration: scored episodes to new parameters, in `optimizer_steps` minibatches."""

    def __init__(self, experiment: Experiment, optimizer: Any, reference: Params | None):
        self.experiment, self.config, self.reference = experiment, experiment.config.rl, reference
        self.recompute_logprobs = (
            self.config.recompute_logprobs or not experiment.config.rollout.from_whole_distribution
        )
        loss = rl.make_loss(experiment.model, self.config)
        self.step = OptimizerStep(loss, optimizer, experiment.mesh, self.config.microbatches, experiment.frozen)
        self.logprobs = OldLogprobs(
            experiment.model,
            self.config.temperature,
            self.config.loss_chunk,
            self.config.microbatches,
            experiment.mesh,
            experiment.frozen,
        )

    def __call__(
        self,
        state: TrainState,
        episodes: list[Episode],
        rng: np.random.Generator,
        poll: Callable[[], None] | None = None,
    ) -> tuple[TrainState, dict[str, Any]]:
        """`episodes`: `group_size` for each problem, in a row. `poll` is called before each step; may raise."""
        config = self.config
        rewards = np.array([episode.reward for episode in episodes], float).reshape(-1, config.group_size)
        advantage = rl.advantages(config, rewards).reshape(-1)
        groups = np.arange(rewards.size).reshape(rewards.shape)  # problem -> its episodes
        batches: list[tuple[Batch, int]] = []  # packed rows, traces that didn't fit
        gaps: list[float] = []  # mean distance of the recorded log-probabilities to the trainer's, by minibatch
        for part in np.array_split(groups, config.optimizer_steps):
            chosen = part.reshape(-1)
            rows = rl.training_rows(config, [episodes[n] for n in chosen], advantage[chosen], rng)
            if not rows:
                continue
            for _ in range(config.imitated_demonstrations // config.optimizer_steps):
                shown = pipeline.drawn_traces(self.experiment.demonstrations, config.row_length, rng, work_only=True)
                rows += rl.imitated_rows(config, shown)
            batch, left_out = packing.pack(rows, config.row_length, config.rows)
            batch = sft.normalised(batch)
            # Here, before the first step: they are those of the policy that sampled.
            if self.recompute_logprobs:
                recorded, batch["old_logprobs"] = batch["old_logprobs"], np.asarray(self.logprobs(state.params, batch))
                sampled = batch["loss_weights"] * (1 - batch["imitated"])
                gaps.append(float(np.average(np.abs(batch["old_logprobs"] - recorded), weights=sampled)))
            if self.reference is not None:
                batch["reference_logprobs"] = np.asarray(self.logprobs(self.reference, batch))
            batches.append((batch, len(left_out)))
        collected: list[dict[str, Any]] = []
        for batch, left_out_count in batches:
            if poll:
                poll()
            per_part = config.rows // config.microbatches
            filled = int(np.sum(batch["segment_ids"].any(axis=1)))
            state, numbers = self.step(state, batch, -(-filled // per_part))
            collected.append({**jax.device_get(numbers), "rows": filled, "traces_left_out": left_out_count})
        if not collected:  # the rewards of every group are equal
            return state, {}
        numbers = {name: float(np.mean([part[name] for part in collected])) for name in collected[0]}
        if self.experiment.config.rollout.from_whole_distribution:
            # Before the first update the trainer's forward pass must give what the sampler recorded.
            sampled = batches[0][0]["loss_weights"] * (1 - batches[0][0]["imitated"])
            numbers["replay_gap"] = gaps[0] if gaps else float(collected[0]["logprob_change"] / np.sum(sampled))
        return state, numbers


# ------------------------------------------------------------------------------------------------------ results.json


def evaluation_rows(after: str, temperatures: Sequence[float]) -> dict[str, float]:
    """Names of the rows of an evaluation in results.json, and the temperature of each; the first is the plain one."""
    suffixes = [
        "" if place == 0 else "_greedy" if temperature == 0 else f"_t{temperature:g}"
        for place, temperature in enumerate(temperatures)
    ]
    return {after + suffix: temperature for suffix, temperature in zip(suffixes, temperatures, strict=True)}


def measured_so(row: Mapping[str, Any] | None, temperature: float, samples: int) -> bool:
    """Whether a row of results.json, None if there is none, is of this temperature and as many samples a problem."""
    row = row or {}
    return (row.get("temperature"), row.get("samples")) == (temperature, samples if temperature > 0 else 1)


def all_measured(rows: Mapping[str, Any], stages: Sequence[str], config: EvalConfig) -> bool:
    """Whether a paradigm of results.json has all rows of these stages ("after_sft", ..), each as `measured_so`."""
    return all(
        measured_so(rows.get(row), temperature, config.samples)
        for stage in stages
        for row, temperature in evaluation_rows(stage, config.temperatures).items()
    )


def read_results(workdir: Path) -> dict[str, Any]:
    """The results so far; empty ones if there is no file."""
    path = workdir / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"paradigms": {}}


@contextmanager
def changing_results(workdir: Path) -> Iterator[dict[str, Any]]:
    """The results so far, written back at the end of the block; other runs that add rows to them wait until then."""
    lock = workdir / ".results.lock"
    lock.touch()
    with locked(lock, wait=True):
        results = read_results(workdir)
        yield results
        replace_text(workdir / "results.json", json.dumps(results, indent=2) + "\n")


def provenance() -> dict[str, str]:
    """Commit (with a + if code differs from it), date and hardware of this run."""

    def git(*words: str) -> str:
        root = Path(__file__).resolve().parent
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    devices = jax.devices()
    kind = devices[0].device_kind
    hardware = f"{len(devices)} x {kind}" if kind != "cpu" else f"{_cpu_count()} CPU cores ({_cpu_name()})"
    commit = git("rev-parse", "HEAD")
    # Not tables and results: those that a run before this one has written don't change what it does.
    changed = commit and git("status", "--porcelain", "--untracked-files=no", "--", ":/*.py")
    return {
        "commit": commit + ("+" if changed else ""),
        "date": datetime.date.today().isoformat(),
        "hardware": hardware,
    }


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
