"""Loads the committed scores of runs, and formats them: means over seeds, with their standard errors."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncthink_jax.files import read_object

RESULTS = Path(__file__).resolve().parent / "results"
PREFIX = "countdown_tiny_seed"  # of the files in it, before the seed

Results = Mapping[str, Any]  # a results.json
Column = tuple[str, str, float, int]  # heading, score, factor, decimals


def load() -> dict[int, Results]:
    """The committed results, by seed: each the results.json of a run of the demo, with the rows of its studies.

    Raises FileError for a damaged file.
    """
    found = {}
    for path in sorted(RESULTS.glob(f"{PREFIX}*.json")):
        if seed := re.fullmatch(rf"{PREFIX}(\d+)", path.stem):
            found[int(seed[1])] = read_object(path, f"take the committed one: git checkout {path}")
    return found


def score(row: Results, name: str) -> float:
    """A number of a row of results.json; "at_least/3" is at_least["3"]."""
    for key in name.split("/"):
        row = row[key]
    return float(row)  # type: ignore[arg-type]


def cell(rows: Sequence[Results], column: Column) -> str:
    """Mean over seeds ± its standard error; for one seed, the number ± its standard error over problems, if known."""
    _, name, factor, decimals = column
    values = [factor * score(row, name) for row in rows]
    if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))
    else:
        error = factor * rows[0]["stderr"].get(name, math.nan)
    text = f"{statistics.mean(values):.{decimals}f}"
    return text if math.isnan(error) else f"{text} ± {error:.{max(1, decimals)}f}"


def rows_of(results: Mapping[int, Results], paradigm: str, row: str) -> list[Results]:
    """The named row of every seed that has it."""
    found = [one["paradigms"].get(paradigm, {}).get(row) for one in results.values()]
    return [one for one in found if one]
