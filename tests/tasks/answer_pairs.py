"""Pairs of a known answer and another one, with the right verdict: `python tests/tasks/answer_pairs.py` prints how many
verdicts are wrong, by kind of answer.

A line of `golden/answer_pairs.jsonl` has kind, gold, answer, right, and `known_miss` where our verdict is still wrong.
"""

import json
from collections import Counter
from pathlib import Path

from asyncthink_jax.tasks import math_answers

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "golden" / "answer_pairs.jsonl").open(encoding="utf-8")]


def verdicts() -> list[bool]:
    """Ours, in the order of the pairs."""
    texts = [(math_answers.final(pair["gold"]) or "", math_answers.final(pair["answer"]) or "") for pair in PAIRS]
    return [bool(verdict) for verdict in math_answers.equal(texts)]


def main() -> None:
    """Prints a table in Markdown."""
    found = Counter((pair["kind"], pair["right"], verdict) for pair, verdict in zip(PAIRS, verdicts(), strict=True))
    kinds = dict.fromkeys(pair["kind"] for pair in PAIRS)
    print("| kind | false rights | false wrongs |\n|---|---|---|")
    for kind in (*kinds, "all"):
        counts = Counter({key[1:]: 0 for key in found})
        for (of, *key), n in found.items():
            counts[tuple(key)] += n * (kind in (of, "all"))
        wrong, right = counts[False, False] + counts[False, True], counts[True, False] + counts[True, True]
        print(f"| {kind} | {counts[False, True]} of {wrong} | {counts[True, False]} of {right} |")


if __name__ == "__main__":
    main()
