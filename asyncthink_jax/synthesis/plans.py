"""Action sequences that another model is asked to follow, sampled at random (paper, section 3).

Left to itself a model writes two shapes: fork-join-fork-join, or all forks and then all joins. So a plan is drawn and
put into the prompt, and reinforcement learning finds all kinds of organization in what it starts from. A plan is any
interleaving of forks, joins and own thinking that the pool allows, in which every part of the problem is thought about
by somebody and every worker is joined:

- Fragments (the independent parts) are taken up in an order drawn uniformly.
- While some are left and some workers are unjoined, the next action takes up a fragment with probability e, the plan's
  *eagerness*, drawn once a plan uniformly from 0 to 1, and otherwise joins one of those workers, each as likely.
- A fragment that is taken up is forked with probability `FORK`, if a worker is free and an id is left, else the
  organizer thinks about it itself. Ids are given in the order of the forks.
- With probability `PAUSE` the organizer thinks freely (plans, or weighs what came back) at the start, and after each
  join.

What is left out of the legal sequences are those that answer with a worker unjoined: in a demonstration its part of the
answer would come from nowhere.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import numpy as np

from asyncthink_jax.protocol.grammar import Grammar, Tag
from asyncthink_jax.protocol.parser import Action as TagAction

FORK = 0.75  # of a fragment, where a worker is free
PAUSE = 0.5  # of free thinking at the start and after each join

Kind = Literal["fork", "join", "think", "answer"]


@dataclasses.dataclass(frozen=True)
class Action:
    """One action of the organizer.

    Attributes:
      kind: what it does.
      fork_id: of a fork or a join, from 1.
      fragment: number, from 1, of the fragment that is forked or thought about; 0 for free thinking.
    """

    kind: Kind
    fork_id: int = 0
    fragment: int = 0

    def __str__(self) -> str:
        if self.kind == "fork":
            return f"fork {self.fork_id} with fragment {self.fragment}"
        if self.kind == "join":
            return f"join {self.fork_id}"
        return f"{self.kind} about fragment {self.fragment}" if self.fragment else self.kind


Plan = tuple[Action, ...]


def sample_plan(fragments: int, grammar: Grammar, rng: np.random.Generator) -> Plan:
    """A plan for a problem of `fragments` fragments, distributed as the module says."""
    to_take = [int(n) + 1 for n in rng.permutation(fragments)]
    unjoined: list[int] = []
    forks = 0
    eagerness = rng.random()
    plan = [Action("think")] if rng.random() < PAUSE else []
    while to_take or unjoined:
        if to_take and (not unjoined or rng.random() < eagerness):
            fragment = to_take.pop(0)
            may_fork = len(unjoined) < grammar.capacity - 1 and forks < grammar.max_forks
            if may_fork and rng.random() < FORK:
                forks += 1
                unjoined.append(forks)
                plan.append(Action("fork", forks, fragment))
            else:
                plan.append(Action("think", fragment=fragment))
        else:
            plan.append(Action("join", unjoined.pop(int(rng.integers(len(unjoined))))))
            if rng.random() < PAUSE:
                plan.append(Action("think"))
    return (*plan, Action("answer"))


def to_text(plan: Plan) -> str:
    """One action a line."""
    return "\n".join(map(str, plan))


_LINE = re.compile(
    r"fork (?P<fork>\d+) with fragment (?P<of>\d+)|join (?P<join>\d+)|think(?: about fragment (?P<about>\d+))?|answer"
)


def from_text(text: str) -> Plan:
    """The inverse of `to_text`. Raises ValueError for a line that is no action."""
    plan = []
    for line in text.strip().splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{line.strip()!r} is no action; one is like 'fork 1 with fragment 2', 'join 1', 'think', "
                "'think about fragment 3' or 'answer'"
            )
        if match["fork"]:
            plan.append(Action("fork", int(match["fork"]), int(match["of"])))
        elif match["join"]:
            plan.append(Action("join", int(match["join"])))
        else:
            plan.append(
                Action("answer") if match[0] == "answer" else Action("think", fragment=int(match["about"] or 0))
            )
    return tuple(plan)


def skeleton(plan: Plan) -> list[str]:
    """The forks and joins in their order, which a text either follows or not; thinking may be any text."""
    return [f"{action.kind} {action.fork_id}" for action in plan if action.kind in ("fork", "join")]


def skeleton_of(actions: list[TagAction]) -> list[str]:
    """The same of what an organizer wrote, as its parser read it."""
    names = {Tag.FORK: "fork", Tag.JOIN: "join"}
    return [f"{names[action.tag]} {action.id}" for action in actions if action.tag in names]
