"""Scripted fork-join episodes, shaped like those of the Countdown demo: the tokens that each agent writes.

An episode has 4 agents and 6 forks. The organizer forks as many workers as the pool holds, thinks, then joins the
oldest and forks another one, until all are joined; then it answers. Sub-queries, thoughts, searches and takeaways are
words, their numbers random around the demo's. Every tag is one token.
"""

import dataclasses

import numpy as np

from experiments.benchmarks.ours import FORKS, FREE, WORKER_PREFIX, WORKER_SUFFIX, tag

AGENTS = 4
PROMPT = 24  # tokens of an organizer's prompt


@dataclasses.dataclass(frozen=True)
class Script:
    """One episode.

    Attributes:
      organizer: its tokens, without what a Join inserts.
      sub_queries, searches, takeaways: words that worker i reads, writes for itself and returns, at place i - 1.
      alone: tokens that one agent alone would write: thoughts, searches and answer, but no tag, sub-query or takeaway.
    """

    organizer: list[int]
    sub_queries: list[int]
    searches: list[int]
    takeaways: list[int]
    alone: int

    def worker(self, i: int) -> list[int]:
        """What the worker of FORK-i writes."""
        words = self.searches[i - 1], self.takeaways[i - 1]
        return [FREE] * words[0] + [tag("<RETURN>")] + [FREE] * words[1] + [tag("</RETURN>")]

    def worker_prompt(self, i: int) -> int:
        """Tokens that the worker of FORK-i reads."""
        return len(WORKER_PREFIX) + self.sub_queries[i - 1] + len(WORKER_SUFFIX)


def episodes(count: int, quick: bool = False) -> list[Script]:
    """`count` random episodes, the same every time; short ones for a smoke run."""
    rng = np.random.default_rng(0)
    return [_episode(rng, forks=4 if quick else 6, scale=0.2 if quick else 1.0) for _ in range(count)]


def _episode(rng: np.random.Generator, forks: int, scale: float) -> Script:
    words = lambda low, high: max(1, round(scale * rng.integers(low, high + 1)))  # noqa: E731
    sub_queries, searches, takeaways = ([words(*r) for _ in range(forks)] for r in ((4, 8), (30, 60), (2, 10)))
    thought, answer = words(4, 16), words(20, 40)

    def fork(i: int) -> list[int]:
        return [tag(f"<FORK-{i}>"), *[FREE] * sub_queries[i - 1], tag(f"</FORK-{i}>")]

    organizer = [token for i in range(1, AGENTS) for token in fork(i)] + [FREE] * thought
    for i in range(1, forks + 1):
        organizer.append(tag(f"<JOIN-{i}>"))
        if i + AGENTS - 1 <= forks:
            organizer += fork(i + AGENTS - 1)
    organizer += [tag("<ANSWER>"), *[FREE] * answer, tag("</ANSWER>")]
    return Script(organizer, sub_queries, searches, takeaways, alone=thought + sum(searches) + answer + 2)


def table(scripts: list[Script]) -> np.ndarray:
    """What the forced model decodes, int32[E, T, N]."""
    traces = [[script.organizer, *(script.worker(i + 1) for i in range(len(script.searches)))] for script in scripts]
    out = np.full((len(scripts), FORKS + 1, max(len(trace) for one in traces for trace in one)), FREE, np.int32)
    for n, one in enumerate(traces):
        for i, trace in enumerate(one):
            out[n, i, : len(trace)] = trace
    return out


def longest(scripts: list[Script]) -> tuple[int, int]:
    """Known tokens of the longest organizer and of the longest worker."""
    organizers = [PROMPT + len(s.organizer) + sum(s.takeaways) + len(s.takeaways) for s in scripts]
    workers = [s.worker_prompt(i) + len(s.worker(i)) for s in scripts for i in range(1, len(s.searches) + 1)]
    return max(organizers), max(workers)


def from_outside(scripts: list[Script]) -> list[list[tuple[int, int]]]:
    """The rounds in which a program outside of the sampler plays the same episodes: [(tokens to read, to write)].

    A round is one `generate` call with every trace of every episode that can go on: an organizer from its start or its
    last Join up to its next Join or its end, a worker from its start to its end. Every call reads the whole text of its
    traces again. This favours the outside: forks don't stop an organizer, and organizers and workers share a call.
    """
    rounds: list[list[tuple[int, int]]] = []
    joins = {tag(f"<JOIN-{i}>"): i for i in range(1, FORKS + 1)}
    forks = {tag(f"</FORK-{i}>"): i for i in range(1, FORKS + 1)}
    state = [{"at": 0, "known": PROMPT, "waits": 0, "forked": [], "done": set()} for _ in scripts]
    while True:
        calls: list[tuple[int, int]] = []
        for script, now in zip(scripts, state, strict=True):
            runs = now["forked"]
            now["forked"] = []
            calls += [(script.worker_prompt(i), len(script.worker(i))) for i in runs]
            if now["at"] < len(script.organizer) and (not now["waits"] or now["waits"] in now["done"]):
                if now["waits"]:
                    now["known"] += script.takeaways[now["waits"] - 1] + 1
                start = now["at"]
                now["waits"] = 0
                while now["at"] < len(script.organizer) and not now["waits"]:
                    token = script.organizer[now["at"]]
                    now["at"] += 1
                    now["waits"] = joins.get(token, 0)
                    if token in forks:
                        now["forked"].append(forks[token])
                calls.append((now["known"], now["at"] - start))
                now["known"] += now["at"] - start
            now["done"] |= set(runs)
        if not calls:
            return rounds
        rounds.append(calls)
