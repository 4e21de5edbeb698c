"""What a run has scored: results.json, which several runs may write, and the episodes behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyncthink_jax.config import Config, EvalConfig
from asyncthink_jax.data.tokenizer import Tokenizer
from asyncthink_jax.files import locked, read_object, replace_text, replacing, sealed
from asyncthink_jax.protocol.episode import Attempt
from asyncthink_jax.storage.metrics import check_results

REMEDY = "put it back from a copy, or remove it: `train` then scores the run again"


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
    """The results so far; empty ones if there is no file. Raises FileError if there is something else in it."""
    path = workdir / "results.json"
    return read_object(path, REMEDY, check_results) if path.exists() else {"paradigms": {}}


@contextmanager
def changing_results(workdir: Path) -> Iterator[dict[str, Any]]:
    """The results so far, written back at the end of the block; other runs that add rows to them wait until then."""
    lock = workdir / ".results.lock"
    lock.touch()
    with locked(lock, wait=True):
        results = read_results(workdir)
        yield results
        replace_text(workdir / "results.json", json.dumps(sealed(results), indent=2) + "\n")


def set_scores_aside(workdir: Path, name: str, saved: Config, now: Config) -> None:
    """Renames the rows that a longer run will score anew: of "async" they become those of "async_6_iterations"."""
    if now.sft.steps > saved.sft.steps:
        stages, length = ["after_sft", "after_rl"], f"{saved.sft.steps}_steps"
    else:
        stages, length = ["after_rl"], f"{saved.rl.iterations}_iterations"
    with changing_results(workdir) as results:
        rows = results["paradigms"].get(name, {})
        old = {row: rows.pop(row) for row in list(rows) if row.startswith(tuple(stages))}
        if old:
            results["paradigms"].setdefault(f"{name}_{length}", {}).update(old)


def write_episodes(folder: Path, attempts: Sequence[Attempt], tokenizer: Tokenizer) -> None:
    """Writes `episodes.jsonl`, one episode a line, in the format that docs/files.md describes. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "episodes.jsonl") as draft, draft.open("w", encoding="utf-8", errors="replace") as file:
        for attempt in attempts:
            file.write(json.dumps(sealed(attempt.to_json(tokenizer.decode)), ensure_ascii=False) + "\n")
