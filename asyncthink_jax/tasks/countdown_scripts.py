"""Demonstrations of Countdown: who searches which pair, in which order, as scripts, so that they can be read as text.

`search(problem, pair)` gives the text of a search and the solutions found (`countdown_search.py`).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from asyncthink_jax.tasks.countdown_search import Found, Pair, Problem, listing, pairs, sub_query
from asyncthink_jax.tasks.schedule import interleave
from asyncthink_jax.tasks.script_writer import ScriptWriter
from asyncthink_jax.tasks.task import Script

Search = Callable[[Problem, Pair], Found]


def random_demonstration(
    problem: Problem,
    search: Search,
    rng: np.random.Generator,
    agents: int = 4,
    self_search: float = 0.15,
    early: float = 0.1,
    in_order: float = 0.5,
    enough: float = 0.0,
) -> Script:
    """A random interleaving of forks, own searches and joins over some of the pairs (`schedule.py:interleave`).

    Of six pairs, 1 to 6 with weights 8, 7, 6, 5, 4, 3: sampling below temperature 1 takes all of them more often than
    it was shown, and falling weights leave that to be learned by RL. Where a worker is free, the organizer searches
    itself with probability `self_search`. With probability `early` the answer comes while a random number of workers is
    unjoined; otherwise all are joined. With probability `enough` it comes as soon as all solutions asked for are there,
    whatever was still planned.

    With probability `in_order` it is an orderly one: the pairs in the order of `pairs`, as someone who counts them off
    would take them. The others take them in any order, so that every legal interleaving can occur.
    """
    orderly = rng.random() < in_order
    plan = _some_pairs(problem, rng, orderly)
    eagerness, leaves_early, stops = rng.random(), rng.random() < early, rng.random() < enough
    organizer = Planned(problem, search, plan, rng, leaves_early, stops)
    interleave(organizer, agents, rng, orderly=orderly, eagerness=eagerness, own_share=self_search)
    return organizer.answer()


def two_shapes_demonstration(
    problem: Problem,
    search: Search,
    rng: np.random.Generator,
    agents: int = 4,
    in_order: float = 0.5,
    enough: float = 0.0,
) -> Script:
    """One of the two shapes that GPT-4o falls into where no action sequence is given to it (paper, section 3).

    Fork and join in turn, or all forks and then all joins (as many at a time as the pool holds), each half of the time.
    Pairs, their order and `enough` are as for `random_demonstration`; the organizer searches nothing itself.
    """
    order = _some_pairs(problem, rng, rng.random() < in_order)
    at_a_time = agents - 1 if rng.random() < 0.5 else 1
    writer, stops = Organizer(problem, search), rng.random() < enough
    unjoined: list[int] = []
    while (order or unjoined) and not (stops and writer.has_enough):
        if not unjoined:
            unjoined = [writer.fork(pair) for pair in order[:at_a_time]]
            order = order[at_a_time:]
        writer.join(unjoined.pop(0))
    return writer.answer()


def oracle_demonstration(problem: Problem, search: Search, agents: int = 4) -> Script:
    """Everything covered and overlapped: every pair forked as early as the pool allows, the oldest joined first."""
    writer = Organizer(problem, search)
    unjoined: list[int] = []
    for pair in pairs(problem):
        if len(unjoined) == agents - 1:
            writer.join(unjoined.pop(0))
        unjoined.append(writer.fork(pair))
    for fork_id in unjoined:
        writer.join(fork_id)
    return writer.answer()


def sequential_demonstration(
    problem: Problem, search: Search, rng: np.random.Generator, in_order: float = 0.5, enough: float = 0.0
) -> Script:
    """One trace, no forks: some pairs, drawn as for `random_demonstration`, searched one after the other.

    The baseline's traces: the same searches under the same headers as the workers', so that everything which makes a
    worker's search easy to learn helps here too. The parallel paradigm uses them as well.
    """
    writer = Organizer(problem, search)
    stops = rng.random() < enough
    for pair in _some_pairs(problem, rng, rng.random() < in_order):
        if stops and writer.has_enough:
            break
        writer.work(pair)
    return writer.answer()


def _some_pairs(problem: Problem, rng: np.random.Generator, in_order: bool) -> list[Pair]:
    """Any of the pairs, from one to all, fewer likelier: weights 8, 7, 6, 5, 4, 3 for 1 to 6 of six."""
    candidates = pairs(problem)
    count = 1 + int(np.searchsorted(_shares(len(candidates)), rng.random(), side="right"))
    chosen = rng.permutation(len(candidates))[:count]
    return [candidates[i] for i in (sorted(chosen) if in_order else chosen)]


@lru_cache
def _shares(most: int) -> np.ndarray:
    """Which share of the demonstrations takes at most one pair, at most two, .., and all."""
    weights = np.arange(most + 2, 2, -1)
    shares = np.cumsum(weights / weights.sum())
    return shares / shares[-1]


class Organizer(ScriptWriter[Problem]):
    """Writes an organizer's script and keeps the solutions it has seen, in the order in which they came."""

    def __init__(self, problem: Problem, search: Search):
        super().__init__(problem)
        self._search = search
        self.found: dict[int, tuple[str, ...]] = {}  # what each worker that is not joined yet returns
        self.seen: dict[str, None] = {}  # an ordered set
        self.taken = 0  # pairs taken up, own searches included: a fork's id is its pair's place among them

    def fork(self, pair: Pair) -> int:
        self.taken += 1
        text, hits = self._search(self.problem, pair)
        self.write_fork(self.taken, sub_query(self.problem, pair), text, listing(hits))
        self.found[self.taken] = hits
        return self.taken

    def join(self, fork_id: int) -> None:
        self.write_join(fork_id)
        self._count(self.found.pop(fork_id))

    def work(self, pair: Pair) -> None:
        self.taken += 1
        text, hits = self._search(self.problem, pair)
        self.say(sub_query(self.problem, pair), " :")
        self.do(text)
        self._count(hits)

    def _count(self, hits: Sequence[str]) -> None:
        self.seen |= dict.fromkeys(hits)
        self.do(f" #{min(len(self.seen), self.problem.n_solutions)}")

    @property
    def has_enough(self) -> bool:
        return len(self.seen) >= self.problem.n_solutions

    def answer(self) -> Script:
        return self.answered(listing(list(self.seen)[: self.problem.n_solutions]))


class Planned(Organizer):
    """Takes up the pairs of a plan, in its order, for `schedule.py:interleave`.

    leaves_early: a random number of the workers that are unjoined when the last pair is taken up stay so. stops: it is
    done as soon as it has enough.
    """

    may_fork = True

    def __init__(
        self,
        problem: Problem,
        search: Search,
        plan: Sequence[Pair],
        rng: np.random.Generator,
        leaves_early: bool,
        stops: bool,
    ):
        super().__init__(problem, search)
        self._plan, self._rng, self._leaves_early, self._stops = list(plan), rng, leaves_early, stops
        self._left_behind = 0

    @property
    def is_done(self) -> bool:
        return self._stopped or (not self._plan and len(self.found) <= self._left_behind)

    @property
    def _stopped(self) -> bool:
        return self._stops and self.has_enough

    def ready(self) -> list[Pair]:
        return self._plan[:1]

    def fork(self, pair: Pair) -> int:
        fork_id = super().fork(pair)
        self._took_up(pair)
        return fork_id

    def work(self, pair: Pair) -> None:
        super().work(pair)
        self._took_up(pair)

    def _took_up(self, pair: Pair) -> None:
        self._plan.remove(pair)
        if not self._plan and self.found and self._leaves_early and not self._stopped:
            self._left_behind = int(self._rng.integers(1, len(self.found) + 1))
