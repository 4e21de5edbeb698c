"""Which episodes of an evaluation a report shows: always the same ones of the same file, by the rules below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Episode = Mapping[str, Any]


class Chosen(NamedTuple):
    """kind: one word, for names of files. why: the rule, in words. number: the episode's line in its file, from 1."""

    kind: str
    why: str
    number: int
    episode: Episode


def choose(episodes: Sequence[Episode], count: int) -> list[Chosen]:
    """Up to `count` different episodes, each by the first of these rules that has not been used:

    1. typical: of those that are right (of all, if none is), the one with as many traces as most have, whose critical
       path is the median of those.
    2. concurrent: the highest concurrency ratio among the right ones (well-formed ones, if none is).
    3. wrong: the typical one of those that have no format error and are not right.
    4. malformed: the typical one of those with a format error.
    5. longest: the longest critical path.
    6. forks: the most Forks.
    7. further ones: of those that are left, evenly along the critical path.

    A rule that finds none, or none that isn't shown already, gives its place to the next.
    """
    chosen: list[Chosen] = []
    left = list(range(len(episodes)))
    for kind, why, candidates in _rules(episodes, left):
        if len(chosen) == count or not left:
            return chosen
        number = next((number for number in candidates if number in left), None)
        if number is not None:
            left.remove(number)
            chosen.append(Chosen(kind, why, number + 1, episodes[number]))
    by_path = sorted(left, key=lambda n: episodes[n]["critical_path"])
    wanted = min(count - len(chosen), len(by_path))
    for n in range(wanted):
        number = by_path[(2 * n + 1) * len(by_path) // (2 * wanted)]
        chosen.append(Chosen(f"further{n + 1}", "one of the others", number + 1, episodes[number]))
    return chosen


def _rules(episodes: Sequence[Episode], left: list[int]) -> Iterator[tuple[str, str, Sequence[int]]]:
    """(kind, why, candidates, the best one first); `left` shrinks as episodes are taken."""
    well_formed = [n for n in left if not episodes[n]["format_error"]]
    right = [n for n in well_formed if is_right(episodes[n])]
    wrong = [n for n in well_formed if n not in set(right)]
    malformed = [n for n in left if episodes[n]["format_error"]]
    yield (
        "typical",
        f"typical of {'those with everything right' if right else 'all'}",
        _typical(episodes, right or left),
    )
    at_once = sorted(right or well_formed, key=lambda n: (-episodes[n]["concurrency"], episodes[n]["critical_path"]))
    yield "concurrent", "most concurrent", at_once
    yield "wrong", "typical of those with something wrong or missing", _typical(episodes, wrong)
    yield "malformed", "typical of those with a format error", _typical(episodes, malformed)
    yield "longest", "longest critical path", sorted(left, key=lambda n: -episodes[n]["critical_path"])
    yield "forks", "most forks", sorted(left, key=lambda n: -len(episodes[n]["traces"]))


def is_right(episode: Episode) -> bool:
    """Whether everything that was asked for was found, without a format error."""
    return not episode["format_error"] and bool(episode["score"]) and episode["score"]["accuracy"] == 1.0


def typical_episode(episodes: Sequence[Episode]) -> Episode:
    """The episode of the most common number of traces whose critical path is the median of those."""
    return episodes[_typical(episodes, range(len(episodes)))[0]]


def _typical(episodes: Sequence[Episode], among: Sequence[int]) -> list[int]:
    """Those of the most common number of traces, the median of their critical paths first, then what is next to it."""
    counts = [len(episodes[n]["traces"]) for n in among]
    if not counts:
        return []
    usual = max(set(counts), key=counts.count)
    alike = sorted(
        (n for n in among if len(episodes[n]["traces"]) == usual), key=lambda n: episodes[n]["critical_path"]
    )
    middle = len(alike) // 2
    return [alike[place] for place in sorted(range(len(alike)), key=lambda place: abs(place - middle))]
