"""Kills runs, damages their files and gives them hostile inputs, and counts the faults.

    python -m experiments.faults                              # all sweeps, whole
    python -m experiments.faults --only kills --cases 20      # 20 cases of one of them

    kills      a small run is killed again and again, in every phase; it must end with the bits of an undisturbed one
    run_files  every kind of file of a stopped and of a finished run is cut and flipped; `train` must go on to the same
               bits, and `report` and `evaluate` say the same, or the command must refuse in one line
    inputs     model folders, GGUF files, tokenizers and data that others made, mutated: used, or refused in one line

A command may do the right thing, end with one line that starts with `error:`, or go on without the lost part and say so
in a line that starts with `warning:`. A fault is a traceback, a hang, more than 2 GiB of memory, a signal, or another
result without a word. The counts go into `experiments/results/faults.json`, and the faults are printed; the exit code
is 1 if there are any. Two commands run at a time. With `--folder` a stopped sweep continues. `make test-all` has a
small part of each sweep.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asyncthink_jax.config import CheckpointConfig, Config, EvalConfig, RLConfig, RolloutConfig, SFTConfig, to_json
from asyncthink_jax.files import replace_text
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.shown import harmless
from asyncthink_jax.storage.provenance import provenance
from asyncthink_jax.tasks import Countdown
from experiments import fault_inputs
from experiments.damage import damages, mutated
from experiments.fork_server import ForkServer, Outcome
from experiments.run_end import first_difference, what_is_left

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "faults.json"
WHOLE = {"kills": 200, "run_files": 0, "inputs": 2000}  # cases; 0 = all there are
FINE = ("right", "refused", "told")  # the last: another result, and a warning of what was lost
AT_A_TIME = 2  # commands
PLACES = 20  # at which each kind of file of a run is cut, and as many at which it is flipped

# The demo at a size that trains in seconds.
SMALL = Config(
    name="small",
    task=Countdown(max_number=12, validation_problems=4, test_problems=4),
    model=ModelConfig(vocab_size=0, layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp_width=64),
    rollout=RolloutConfig(slots=8, organizer_budget=14, worker_budget=8, context=24),
    sft=SFTConfig(steps=40, rows=8),
    rl=RLConfig(iterations=10, prompts=2, group_size=4, rows=8, row_length=64),
    eval=EvalConfig(validate_every=3, validation_problems=2),
    checkpoint=CheckpointConfig(every_sft_steps=7, every_rl_iterations=2),
)
# Reads a model, a tokenizer, prompts and data, and trains nothing.
FROM_MODEL = Config(
    name="from_model",
    task=SMALL.task,
    model=ModelConfig(vocab_size=0, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, mlp_width=48),
    rollout=RolloutConfig(slots=4, organizer_budget=8, worker_budget=6, context=2048, worker_context=1024),
    sft=SFTConfig(steps=0, rows=2, row_length=2048),
    rl=RLConfig(iterations=0),
)
# A model of this size and age answers nothing: the reward of these runs is one that every episode can earn.
TRAIN = """
from asyncthink_jax import command, train
from asyncthink_jax.training import grpo

grpo.reward = lambda config, episode, score: float(sum(int(trace.tokens.sum()) for trace in episode.traces) % 5)
command.run(train.main)
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a sweep: what was done, and the outcome: one of FINE, or the name of a fault."""

    done: str
    came: str
    said: str = ""  # of a fault: the end of what the command wrote


def judged(done: str, outcome: Outcome, differs: Callable[[], str] = lambda: "") -> Case:
    """The case for this outcome of a command; `differs` describes a wrong result of a command that succeeded."""
    said = " | ".join((outcome.err or outcome.out).splitlines()[-6:])[-600:]
    if outcome.fault:
        return Case(done, outcome.fault, said)
    if outcome.code:
        return Case(done, "refused", said)
    wrong = differs()
    if wrong and any(line.startswith("warning: ") for line in outcome.err.splitlines()):
        return Case(done, "told")  # what was lost, and what is taken in its place
    return Case(done, "silent difference", f"{wrong} | {said}") if wrong else Case(done, "right")


class Sweeps:
    """The sweeps over small runs in `folder`; all start from one undisturbed run."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.config, self.train, self.compiled = folder / "small.json", folder / "train.py", folder / "compiled"
        self.config.write_text(to_json(SMALL), encoding="utf-8")
        self.train.write_text(TRAIN, encoding="utf-8")
        self._servers = threading.local()
        self._opened: list[ForkServer] = []
        self._writes = threading.Lock()

    @property
    def server(self) -> ForkServer:
        """The server of this thread."""
        if not hasattr(self._servers, "mine"):
            self._servers.mine = ForkServer(Path(tempfile.mkdtemp(prefix="server", dir=self.folder)), self.compiled)
            self._opened.append(self._servers.mine)
        return self._servers.mine

    def command(self, workdir: Path) -> list[str]:
        """The words of the small run's `train`."""
        return [str(self.train), "--config", str(self.config), "--workdir", str(workdir), "--noevaluate"]

    def undisturbed(self) -> Path:
        """The undisturbed run, trained and scored; made on first use."""
        workdir = self.folder / "undisturbed"
        if not (workdir / "results.json").exists():
            self.made([*self.command(workdir)[:-1]])
        return workdir

    def made(self, words: Sequence[str]) -> None:
        """Runs a command that has to succeed."""
        outcome = self.server.run(words, limit=900)
        assert outcome.code == 0, outcome.err

    def side_by_side(self, name: str, tasks: Sequence[Callable[[], list[Case]]]) -> Iterator[Case]:
        """The cases of a sweep's tasks, two at a time; tasks that an earlier call has done are not repeated."""
        journal, of_code = self.folder / "cases.jsonl", provenance()["commit"]
        lines = map(json.loads, journal.read_text("utf-8").splitlines()) if journal.exists() else ()
        known = {line["task"]: [Case(**case) for case in line["cases"]] for line in lines}

        def done(number: int) -> list[Case]:
            task = f"{name}, {number} of {len(tasks)}, seed {self.seed}, {of_code}"
            if task not in known:
                known[task] = tasks[number]()
                line = json.dumps({"task": task, "cases": [dataclasses.asdict(case) for case in known[task]]}) + "\n"
                with self._writes, journal.open("a", encoding="utf-8") as file:
                    file.write(line)
            return known[task]

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for cases in pool.map(done, range(len(tasks))):
                yield from cases

    def close(self) -> None:
        """Ends the servers."""
        for server in self._opened:
            server.close()

    # ------------------------------------------------------------------------------------------------------- kills

    def kills(self, count: int) -> Iterator[Case]:
        """`count` SIGKILLs, up to eight for each run. The case is named by the phase in which the kill came."""
        self.undisturbed()
        shares = [min(8, count - begun) for begun in range(0, count, 8)]
        yield from self.side_by_side(
            "kills", [functools.partial(self._killed, n, share) for n, share in enumerate(shares)]
        )

    def _killed(self, number: int, kills: int) -> list[Case]:
        rng, cases = random.Random(f"{self.seed} {number}"), []
        while len(cases) < kills:  # a run may end before it was killed so often: then another is begun
            cases += self._killed_run(self.folder / f"killed{number}_{len(cases)}", kills - len(cases), rng)
        return cases

    def _killed_run(self, workdir: Path, kills: int, rng: random.Random) -> list[Case]:
        phases: list[str] = []
        while len(phases) < kills:
            pid = self.server.start(self.command(workdir), limit=300)
            reached, delay = _moment(workdir, rng)
            while not reached() and Path(f"/proc/{pid}").exists():
                time.sleep(0.002)
            time.sleep(delay)
            phase = _phase(workdir)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            outcome = self.server.wait()
            if outcome.code != -signal.SIGKILL:  # it had ended
                break
            phases.append(phase)
        else:
            outcome = self.server.run(self.command(workdir), limit=300)
        end = judged(f"after kills in {', '.join(phases)}", outcome, lambda: self.differs(workdir))
        if end.came != "right":
            return [end if end.came != "refused" else dataclasses.replace(end, came="not resumed")] * max(1, kills)
        shutil.rmtree(workdir)
        return [Case(phase, "right") for phase in phases]

    def differs(self, workdir: Path) -> str:
        """The first bits in which a run ended differently from the undisturbed one; "" if equal."""
        try:
            ours, theirs = (what_is_left(SMALL, folder) for folder in (workdir, self.undisturbed()))
        except (AssertionError, RuntimeError, ValueError, OSError) as error:
            return f"{type(error).__name__}: {harmless(error)}"
        return first_difference(ours, theirs)

    # ------------------------------------------------------------------------------------------------ files of a run

    def run_files(self, count: int) -> Iterator[Case]:
        """Each kind of file of a run that was stopped in RL, then of one that has ended; `count` damages, 0 = all."""
        stopped, ended = self._stopped(), self.undisturbed()
        tasks: list[Callable[[], list[Case]]] = [
            functools.partial(self._resumed, stopped, *damage) for damage in damages(stopped, PLACES, self.seed)
        ]
        readers = []
        for name, read in {"report": self._report, "evaluate": self._evaluate, "train": self._table}.items():
            with self._copy(ended, Path("config.json"), (ended / "config.json").read_bytes()) as copy:
                outcome, expected = read(copy)
            assert outcome.code == 0, outcome.err
            readers.append((name, read, expected))
        for damage, reader in zip(damages(ended, PLACES, self.seed), itertools.cycle(readers)):
            tasks.append(functools.partial(self._read_again, *reader, *damage))
        if count:
            tasks = random.Random(self.seed).sample(tasks, min(count, len(tasks)))
        yield from self.side_by_side("run_files", tasks)

    def _stopped(self) -> Path:
        workdir = self.folder / "stopped"
        if not workdir.exists():
            pid = self.server.start(self.command(workdir), limit=300)
            while _lines(workdir) < 40 + 7:
                time.sleep(0.002)
            os.kill(pid, signal.SIGTERM)
            outcome = self.server.wait()
            assert outcome.code == 0, outcome.err
        return workdir

    @contextlib.contextmanager
    def _copy(self, workdir: Path, file: Path, data: bytes) -> Iterator[Path]:
        """A copy of a run with one file replaced."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            copy = Path(folder) / workdir.name
            shutil.copytree(workdir, copy, symlinks=True)
            (copy / file).write_bytes(data)
            yield copy

    def _resumed(self, stopped: Path, file: Path, what: str, data: bytes) -> list[Case]:
        with self._copy(stopped, file, data) as workdir:
            outcome = self.server.run(self.command(workdir), limit=300)
            return [judged(f"train goes on, {file} {what}", outcome, lambda: self.differs(workdir))]

    def _read_again(
        self,
        name: str,
        read: Callable[[Path], tuple[Outcome, bytes]],
        expected: bytes,
        file: Path,
        what: str,
        data: bytes,
    ) -> list[Case]:
        with self._copy(self.undisturbed(), file, data) as workdir:
            outcome, said = read(workdir)
            differs = "" if said == expected else "it says something else"
            return [judged(f"{name} of an ended run, {file} {what}", outcome, lambda: differs)]

    def _report(self, workdir: Path) -> tuple[Outcome, bytes]:
        out = workdir.parent / "report"
        outcome = self.server.run(["-m", "asyncthink_jax.report", "--workdir", str(workdir), "--out", str(out)])
        page = (out / "report.html").read_bytes() if outcome.code == 0 else b""
        return outcome, re.sub(rb"Written [^.]*\.", b"", page.replace(os.fsencode(workdir), b"RUN"))

    def _evaluate(self, workdir: Path) -> tuple[Outcome, bytes]:
        words = ["-m", "asyncthink_jax.evaluate", "--workdir", str(workdir), "--split", "validation", "--problems", "2"]
        outcome = self.server.run(words)
        written = sorted(workdir.glob("eval/*_validation_*/episodes.jsonl"))
        return outcome, b"".join(path.read_bytes() for path in written)

    def _table(self, workdir: Path) -> tuple[Outcome, bytes]:
        outcome = self.server.run(self.command(workdir)[:-1])
        return outcome, outcome.out.replace(str(workdir), "RUN").encode()

    # ------------------------------------------------------------------------------------------------------- inputs

    def inputs(self, count: int) -> Iterator[Case]:
        """`count` mutated files, spread evenly over the kinds that `_made_inputs` makes."""
        sources = _made_inputs(self)
        whole = [functools.partial(self._given, *source, None) for source in sources]
        for case in self.side_by_side("inputs as they are", whole):
            assert case.came == "right", f"{case.done} does not work: {case.said}"
        tasks = [functools.partial(self._given, *sources[n % len(sources)], n) for n in range(count)]
        yield from self.side_by_side("inputs", tasks)

    def _given(self, kind: str, folder: Path, file: str, words: Sequence[str], number: int | None) -> list[Case]:
        what, data = "as it is", (folder / file).read_bytes()
        if number is not None:
            what, data = mutated(data, random.Random(f"{self.seed} {number}"))
        with self._copy(folder, Path(file), data) as copy:
            command = [word.format(copy=copy, out=copy.parent / "out") for word in words]
            return [judged(f"{kind}, case {number}: {what}", self.server.run(command))]


def _moment(workdir: Path, rng: random.Random) -> tuple[Callable[[], bool], float]:
    """(whether the moment of the next kill has come, seconds from then on): in set-up, a step, a save, a validation."""
    lines, begun = _lines(workdir), time.monotonic() + rng.uniform(0, 2.5)
    further = lines + rng.randint(1, 12)
    moments: dict[str, tuple[Callable[[], bool], float]] = {
        "set-up": (lambda: time.monotonic() > begun, 0),
        "step": (lambda: _lines(workdir) >= further, rng.uniform(0, 0.05)),
        "saving": (lambda: _lines(workdir) > lines and _is_saving(workdir), rng.uniform(0, 0.01)),
        "validation": (lambda: _lines(workdir) > lines and _validates(workdir), rng.uniform(0, 0.2)),
    }
    return moments[rng.choice(list(moments))]


def _phase(workdir: Path) -> str:
    if not _lines(workdir):
        return "set-up"
    return "saving" if _is_saving(workdir) else "validation" if _validates(workdir) else "a step"


def _lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _is_saving(workdir: Path) -> bool:
    try:
        return any(workdir.glob("checkpoints/**/*.orbax-checkpoint-tmp*"))
    except FileNotFoundError:  # a folder has just got its name
        return True


def _validates(workdir: Path) -> bool:
    """Whether the line of the last iteration is there and that of its validation is not."""
    last = (workdir / "metrics.jsonl").read_bytes().splitlines()[-1:]
    if not last or not last[0].endswith(b"}"):
        return False
    line = json.loads(last[0])
    return line["stage"] == "rl" and line["step"] % 3 == 0


def _made_inputs(sweeps: Sweeps) -> list[tuple[str, Path, str, list[str]]]:
    """(kind, folder, file in it, command that reads the folder) of every kind of input.

    In a command's words {copy} is the folder and {out} a new one.
    """
    folder = sweeps.folder / "inputs"
    model, exported, single, data = (folder / name for name in ("model", "exported", "single", "data"))
    if not data.exists():
        folder.mkdir()
        sweeps.made([str(HERE.parent / "launch" / "colab" / "tiny_qwen3.py"), str(model)])
        sweeps.made(["-m", "asyncthink_jax.convert", "--from", str(sweeps.undisturbed()), "--to", str(exported)])
        sweeps.made([str(HERE / "fault_inputs.py"), str(folder)])
    config = folder / "from_model.json"
    config.write_text(to_json(FROM_MODEL), encoding="utf-8")
    train = ["-m", "asyncthink_jax.train", "--noevaluate", "--workdir", "{out}", "--config", str(config)]
    convert = ["-m", "asyncthink_jax.convert", "--to", "{out}", "--from"]
    small = {"layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "mlp_width": 64}  # of the small run
    sizes = {model: [], exported: [f"--config.model.{name}={size}" for name, size in small.items()]}
    found = []
    for source in (model, exported):
        for file in sorted(path.name for path in source.iterdir()):
            kind = f"{file} of a model folder"
            found.append((kind, source, file, [*train, "--config.pretrained={copy}", *sizes[source]]))
            found.append((kind, source, file, [*convert, "{copy}"]))
    for words in ([*train, "--config.pretrained={copy}/model.gguf"], [*convert, "{copy}/model.gguf"]):
        found.append(("GGUF", single, "model.gguf", words))
    train.append(f"--config.pretrained={model}")
    for file in fault_inputs.ROWS:
        math = [
            "--config.task.name=math",
            "--config.task.validation_problems=2",
            f"--config.task.test={data}/test.jsonl",
        ]
        found.append((f"data, {file}", data, file, [*train, *math, f"--config.task.train={{copy}}/{file}"]))
    shown = [f"--config.data.demonstrations={{copy}}/{fault_inputs.SHOWN}", "--config.sft.steps=1"]
    found.append(("demonstrations", data, fault_inputs.SHOWN, [*train, *shown]))
    return found


# -------------------------------------------------------------------------------------------------------------- command


def main() -> int:
    """Runs the command; returns its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes
    parser = argparse.ArgumentParser("experiments.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=WHOLE, help="run only this sweep; default: all")
    parser.add_argument("--cases", type=int, help="cases of a sweep (0 = all possible ones); default: the whole sweep")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damages and of the moments of kills")
    parser.add_argument("--folder", type=Path, help="folder of the runs; default: a temporary folder")
    flags = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as temporary:
        sweeps = Sweeps(flags.folder or Path(temporary), flags.seed)
        for name in [flags.only] if flags.only else WHOLE:
            count = WHOLE[name] if flags.cases is None else flags.cases
            faults += _swept(name, getattr(sweeps, name)(count), whole=flags.cases is None, seed=flags.seed)
        sweeps.close()
    return int(faults > 0)


def _swept(name: str, cases: Iterator[Case], whole: bool, seed: int) -> int:
    """Counts and prints the outcomes; keeps the counts of a whole sweep. Returns the number of faults."""
    started, counts, faults = time.monotonic(), collections.Counter[str](), 0
    for case in cases:
        counts[case.came] += 1
        if case.came not in FINE:
            faults += 1
            print(f"{name}: {case.came}: {case.done}\n    {harmless(case.said)}", flush=True)
        if sum(counts.values()) % 100 == 0:
            print(f"{name}: {dict(counts)}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"{name}: {dict(counts)}", flush=True)
    if whole:
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        kept[name] = {**counts, "seed": seed, "minutes": round((time.monotonic() - started) / 60, 1), **provenance()}
        replace_text(RESULTS, json.dumps(kept, indent=1) + "\n")
    return faults


if __name__ == "__main__":
    sys.exit(main())
