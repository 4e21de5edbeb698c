"""Random action sequences: any interleaving of forks, joins and own work that the pool allows (paper, section 3)."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

U = TypeVar("U")
# Chance that an organizer whose workers are all busy does the next part itself, else it joins one of them.
OWN_WHEN_FULL = 0.75


class Organizer(Protocol[U]):
    """Writes an organizer's trace, action by action, and knows what can be done next."""

    @property
    def is_done(self) -> bool:
        """Whether the answer can be written."""

    @property
    def may_fork(self) -> bool:
        """Whether there is an id left."""

    def ready(self) -> Sequence[U]:
        """The parts of the work that can be taken up now, in the order in which an orderly organizer takes them."""

    def fork(self, part: U) -> int:
        """Hands a part to a worker; returns its id."""

    def work(self, part: U) -> None:
        """Does a part itself."""

    def join(self, fork_id: int) -> None:
        """Takes in what a worker found, after which other parts may be ready."""


def interleave(
    organizer: Organizer[U], agents: int, rng: np.random.Generator, *, orderly: bool, eagerness: float, own_share: float
) -> bool:
    """Drives an organizer to where it is done, at random. False if it can't get there: nothing is ready or unjoined.

    At each point either a ready part is taken up or an unjoined worker is joined; if one of both is not there, the
    other. Where a worker is free, a part is taken up with probability `eagerness`, which a demonstration draws for
    itself, uniform from 0 to 1; it is forked, but with probability `own_share` the organizer does it. Where none is
    free (agents - 1 unjoined workers) or no id is left, the organizer does it with probability OWN_WHEN_FULL, else it
    joins.

    An orderly one takes the first part that is ready, joins the oldest worker, and joins after each part that it does
    while all are busy. The others take parts and join workers in any order.
    """
    unjoined: list[int] = []
    must_join = False
    while not organizer.is_done:
        ready = organizer.ready()
        if not ready and not unjoined:
            return False
        full = len(unjoined) == agents - 1 or not organizer.may_fork
        chance = OWN_WHEN_FULL if full else eagerness
        if ready and (not unjoined or (not must_join and rng.random() < chance)):
            part = ready[0 if orderly else int(rng.integers(len(ready)))]
            if full or rng.random() < own_share:
                organizer.work(part)
                must_join = full and orderly
            else:
                unjoined.append(organizer.fork(part))
        else:
            organizer.join(unjoined.pop(0 if orderly else int(rng.integers(len(unjoined)))))
            must_join = False
    return True
