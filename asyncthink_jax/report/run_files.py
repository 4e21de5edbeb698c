"""A run as its files tell of it: finished, still going, or without one stage or another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils.epath import Path as AnyPath

from asyncthink_jax.files import FileError, check_sum, read_object
from asyncthink_jax.storage.metrics import check_results, check_scores, read_lines, read_metrics

EPISODE = {"paradigm", "agents", "traces", "answer", "score", "format_error", "critical_path", "concurrency", "problem"}


class ReportError(Exception):
    """What keeps a report from being written, in one line for the user."""


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What there is of a run so far.

    name: of the config, else of the folder. config: `{}` if there is none. lines: of metrics.jsonl. results: of
    results.json, at least `{"paradigms": {}}`. episodes: by evaluation, the run's own first, then those of `evaluate`.
    scores: of the evaluations of `evaluate` alone.
    """

    folder: Any  # a path, of this machine or of a bucket
    name: str
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    results: dict[str, Any]
    episodes: dict[str, list[dict[str, Any]]]
    scores: dict[str, dict[str, Any]]

    @property
    def had_cold_start(self) -> bool:
        steps = self.config.get("sft", {}).get("steps")
        return steps != 0 if self.config else any(line["stage"] == "sft" for line in self.lines)

    @property
    def row(self) -> str | None:
        """The run's own row in results.json: that of its paradigm, else the first."""
        rows = self.results["paradigms"]
        own = self.config.get("paradigm", "async")
        return own if own in rows else next(iter(rows), None)

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        last = {line["stage"]: line["step"] for line in self.lines}
        steps = {"sft": self.config.get("sft", {}).get("steps"), "rl": self.config.get("rl", {}).get("iterations")}
        for stage, words in (("rl", "RL iteration"), ("sft", "cold start step")):
            if stage in last:
                return f"{words} {last[stage]}" + (f" of {steps[stage]}" if steps[stage] else "")
        return "not begun"


def read_run(folder: str) -> RunFiles:
    """Reads the files of a run, local or in a bucket.

    Raises ReportError if there is no run in the folder, or if one of the files is not what it should be.
    """
    try:
        return _read(AnyPath(folder), folder)
    except ImportError as error:
        raise ReportError(
            f"{folder} can't be read: {error}; pip install 'asyncthink_jax[tpu]', or copy the run"
        ) from error
    except FileError as error:
        raise ReportError(str(error)) from error
    except (ValueError, OSError) as error:
        raise ReportError(f"{folder} can't be read: {error}") from error
    except Exception as error:
        if isinstance(error, ReportError) or "://" not in folder:
            raise
        # Each kind of bucket has errors of its own.
        raise ReportError(f"{folder} can't be read: {' '.join(str(error).split())}") from error


def _read(folder: Any, named: str) -> RunFiles:
    if not folder.is_dir():
        raise ReportError(f"{named} is no folder; name that of a run")
    metrics = folder / "metrics.jsonl"
    evaluations = sorted(folder.glob("eval/*/episodes.jsonl"), key=lambda path: (_scores(path).exists(), str(path)))
    config = _object(folder / "config.json", "put it back from a copy", _check_config)
    if "://" not in named:
        check_sum(Path(named) / "config.json")
    results = _object(folder / "results.json", "remove it, and `train` scores the run again", check_results)
    if config and "model_type" in config:
        raise ReportError(f"{named} holds no run, but a model of others")
    if not (config or results or evaluations or metrics.exists()):
        raise ReportError(
            f"{named} holds no run (no config.json, metrics.jsonl, results.json or eval/*/episodes.jsonl in it)"
        )
    scores = {path.parent.name: _scored(_scores(path)) for path in evaluations if _scores(path).exists()}
    return RunFiles(
        folder=folder,
        name=str(config.get("name") or folder.resolve().name),
        config=config,
        lines=read_metrics(metrics) if metrics.exists() else [],
        results={"paradigms": {}} | results,
        episodes={path.parent.name: _episodes(path, scores.get(path.parent.name)) for path in evaluations},
        scores=scores,
    )


def _scores(episodes: Any) -> Any:
    return episodes.parent / "scores.json"


def _episodes(path: Any, scores: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The episodes of an evaluation, as many as its scores say."""
    episodes = read_lines(path, EPISODE)
    if scores is not None and len(episodes) != scores["n"]:
        raise FileError(f"{path} has {len(episodes)} episodes, and scores.json {scores['n']}; run `evaluate` again")
    return episodes


def _scored(path: Any) -> dict[str, Any]:
    return _object(path, "remove its folder, and `evaluate` writes it anew", lambda scores: check_scores(scores, "it"))


def _object(path: Any, remedy: str, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The object in a file; `{}` if there is no file. Raises FileError, with the remedy, for what `check` refuses."""
    return read_object(path, remedy, check) if path.exists() else {}


def _check_config(config: Mapping[str, Any]) -> None:
    for section in ("sft", "rl"):
        if not isinstance(config.get(section, {}), Mapping):
            raise ValueError(f"{section} is not an object")


def merged_results(runs: Sequence[RunFiles]) -> dict[str, Any]:
    """The rows of all runs as one results.json; a row that two have carries the later one's label."""
    merged: dict[str, Any] = {**runs[0].results, "paradigms": {}}
    for run, label in zip(runs, labels(runs), strict=True):
        for row, stages in run.results["paradigms"].items():
            merged["paradigms"][row if row not in merged["paradigms"] else f"{row}, {label}"] = stages
    return merged


def labels(runs: Sequence[RunFiles]) -> list[str]:
    """A name for each run that none of the others has: the config's, the folder's, or the whole path."""
    kinds = [[run.name for run in runs], [run.folder.resolve().name for run in runs], [str(run.folder) for run in runs]]
    return next((names for names in kinds if len(set(names)) == len(runs)), kinds[-1])


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a config by their dotted names."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields
