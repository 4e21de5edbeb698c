"""Random action sequences: whatever the pool allows occurs, nothing else does, and how often is as documented."""

from collections import Counter

import numpy as np
import pytest

from asyncthink_jax.tasks.schedule import OWN_WHEN_FULL, interleave


class Recorder:
    """Parts that don't depend on each other; `F`, `W` and `J` with the number of the part are what was done."""

    def __init__(self, parts, max_forks=100):
        self.parts, self.max_forks = list(range(1, parts + 1)), max_forks
        self.actions: list[str] = []
        self.unjoined: list[int] = []
        self.most_unjoined = 0

    @property
    def is_done(self):
        return not self.parts and not self.unjoined

    @property
    def may_fork(self):
        return sum(action[0] == "F" for action in self.actions) < self.max_forks

    def ready(self):
        return self.parts

    def fork(self, part):
        self._take(part, "F")
        self.unjoined.append(part)
        self.most_unjoined = max(self.most_unjoined, len(self.unjoined))
        return part

    def work(self, part):
        self._take(part, "W")

    def join(self, fork_id):
        self.unjoined.remove(fork_id)
        self.actions.append(f"J{fork_id}")

    def _take(self, part, action):
        self.parts.remove(part)
        self.actions.append(f"{action}{part}")


def sequences(n, parts, agents, orderly=False, own_share=0.0, **limits):
    rng = np.random.default_rng(0)
    for _ in range(n):
        recorder = Recorder(parts, **limits)
        assert interleave(recorder, agents, rng, orderly=orderly, eagerness=rng.random(), own_share=own_share)
        yield recorder


def legal(parts, agents):
    """All action sequences that a pool allows, by trying everything."""
    found = set()

    def extend(done, left, unjoined):
        if not left and not unjoined:
            found.add(tuple(done))
        for part in left:
            rest = left - {part}
            extend([*done, f"W{part}"], rest, unjoined)
            if len(unjoined) < agents - 1:
                extend([*done, f"F{part}"], rest, unjoined | {part})
        for part in unjoined:
            extend([*done, f"J{part}"], left, unjoined - {part})

    extend([], frozenset(range(1, parts + 1)), frozenset())
    return found


@pytest.mark.parametrize("agents", [1, 2, 3])
def test_every_sequence_that_the_pool_allows_occurs_and_no_other(agents):
    expected = legal(2, agents)
    assert {tuple(one.actions) for one in sequences(4000, 2, agents, own_share=0.3)} == expected
    assert len(expected) == {1: 2, 2: 10, 3: 14}[agents]


def test_an_orderly_sequence_takes_parts_and_joins_workers_in_order():
    for one in sequences(500, 5, 3, orderly=True, own_share=0.2):
        for kinds in ("FW", "J"):
            numbers = [int(action[1]) for action in one.actions if action[0] in kinds]
            assert numbers == sorted(numbers)


def test_the_pool_is_used_to_its_last_worker_and_never_beyond():
    assert max(one.most_unjoined for one in sequences(500, 8, 4)) == 3


def test_eagerness_is_the_sequences_own_and_uniform():
    first_join = Counter()
    for one in sequences(12_000, 6, 7):
        first_join[next(i for i, action in enumerate(one.actions) if action[0] == "J")] += 1
    # Of an eagerness e, the first join stands behind n forks with probability e^(n-1) (1-e): over all e, 1 / n (n+1).
    shares = [first_join[n] / 12_000 for n in range(1, 7)]
    np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 12, 1 / 20, 1 / 30, 1 / 6], atol=0.015)


def test_an_organizer_with_a_free_worker_does_its_own_share():
    first = Counter(one.actions[0][0] for one in sequences(6000, 2, 3, own_share=0.3))
    assert 0.28 < first["W"] / 6000 < 0.32


@pytest.mark.parametrize("orderly", [True, False])
def test_an_organizer_whose_workers_are_busy_works_three_times_in_four(orderly):
    chosen, in_a_row = Counter(), 0
    for one in sequences(4000, 6, 3, orderly=orderly):
        unjoined, left, worked = 0, 6, False
        for action in one.actions:
            if unjoined == 2 and left and not (orderly and worked):
                chosen[action[0]] += 1
            in_a_row += worked and action[0] == "W"
            worked = action[0] == "W" and unjoined == 2
            unjoined += {"F": 1, "J": -1, "W": 0}[action[0]]
            left -= action[0] != "J"
    assert set(chosen) == {"W", "J"}
    assert abs(chosen["W"] / chosen.total() - OWN_WHEN_FULL) < 0.03
    assert (in_a_row > 0) != orderly  # an orderly one joins after what it did itself


def test_without_an_id_left_nothing_is_forked():
    forks = [sum(action[0] == "F" for action in one.actions) for one in sequences(300, 6, 4, max_forks=2)]
    assert max(forks) == 2 and min(forks) >= 1


def test_what_cannot_be_done_ends_without_it():
    stuck = Recorder(0)
    stuck.unjoined = [1]  # it is not done, but there is nothing to take up and nobody of its own to join
    assert not interleave(stuck, 4, np.random.default_rng(0), orderly=False, eagerness=0.5, own_share=0.1)
