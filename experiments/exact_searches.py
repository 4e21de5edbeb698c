"""Counts the exact searches of a model, by workers and by organizers, in the episodes of evaluations.

    python -m experiments.exact_searches runs/countdown_tiny/eval/async runs/countdown_tiny_sequential/eval/sequential

A search is exact if it equals, word for word, the text of a program about the same pair (`tasks/countdown_search.py`).
A worker's search is its whole trace with the takeaways; an organizer's is the text between its " :" and its tally.
Searches that a budget or the end of the episode has cut are not counted. A search of no pair of the problem is not
exact.

A baseline may be compared if at least 95% of its searches are exact after its cold start;
`python -m asyncthink_jax.evaluate --checkpoint cold_start` makes these episodes.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asyncthink_jax.config import saved_config
from asyncthink_jax.protocol.prompts import TINY
from asyncthink_jax.shown import complain
from asyncthink_jax.tasks import Countdown
from asyncthink_jax.tasks.countdown_search import Problem, pairs, sub_query, worker_text

OWN = re.compile(r"((?: \d+)+ = \d+) :([^#<]*?)(?= #|<)")  # the sub-query that an organizer takes up itself, its search


def searches(episode: Mapping[str, Any], task: Countdown) -> Iterator[tuple[str, bool]]:
    """(role, whether it is exact) for each finished search of an episode (a line of episodes.jsonl)."""
    asked = episode["problem"]
    problem = Problem(tuple(asked["numbers"]), asked["target"], asked["n_solutions"])
    right = {sub_query(problem, pair): task.search(problem, pair) for pair in pairs(problem)}
    workers = {TINY.for_worker(query): worker_text(found) for query, found in right.items()}  # by prompt
    for trace in episode["traces"]:
        # A join ends what stands before it, as a tag does.
        text = "".join(part if kind == "decoded" else "<" for kind, part in trace["spans"])
        if trace["role"] == "organizer":
            for query, found in OWN.findall(text):
                yield "organizer", query in right and found == right[query][0]
        elif trace["end"] == "return":
            yield "worker", text == workers.get(trace["prompt"])


def shares(episodes: Iterable[Mapping[str, Any]], task: Countdown) -> dict[str, tuple[int, float]]:
    """role -> (searches, share that is exact), for roles that searched."""
    done: dict[str, list[bool]] = {}
    for episode in episodes:
        for role, is_exact in searches(episode, task):
            done.setdefault(role, []).append(is_exact)
    return {role: (len(found), sum(found) / len(found)) for role, found in sorted(done.items())}


def main(argv: list[str]) -> int:
    """Prints a line for each folder and role; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.exact_searches", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("folders", nargs="+", type=Path, help="of evaluations, like runs/countdown_tiny/eval/async")
    for folder in parser.parse_args(argv).folders:
        try:
            task = saved_config(folder.parents[1] / "config.json").task
            lines = (folder / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
        except (OSError, IndexError) as error:
            complain(f"error: {folder} is not an evaluation in the folder of a run: {error}")
            return 2
        if not isinstance(task, Countdown):
            complain(f"error: {folder} is not of Countdown")
            return 2
        for role, (count, share) in shares(map(json.loads, lines), task).items():
            error = math.sqrt(share * (1 - share) / count)
            print(f"{folder}: {role} {100 * share:.1f} ± {100 * error:.1f}% of {count} searches exact")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
