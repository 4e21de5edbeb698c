"""Numbers that aren't finite: the run ends at the step that made them, and what is on disk stays good.

A step's loss, gradient and parameters are looked at on the devices, in the program of the step itself
(`training/optimizer_step.py:OptimizerStep`), whose numbers the host fetches anyway. They are the same in all
processes, as episodes are, so that all end at the same step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from asyncthink_jax.protocol.episode import Attempt

PARAMETERS = "parameters_finite"  # what a step says of its parameters, beside its numbers


class NonFiniteError(Exception):
    """A number isn't finite; the message says which, and what it is.

    `can_be_left_out`: the update that it belongs to can, and the state from before be gone on with.
    """

    can_be_left_out = False


class DivergedError(Exception):
    """The run can't go on: the message is one line that says where, why, and what can be done."""

    exit_code = 3


class Skips:
    """The updates of a stage that were left out, because their loss or their gradient isn't finite.

    Attributes:
      allowed: the most that may be left out, over all sittings.
      count: the number left out so far.
    """

    def __init__(self, allowed: int, count: int = 0):
        self.allowed, self.count = allowed, count

    def skipped(self, numbers: dict[str, Any]) -> bool:
        """Whether the step that these fetched numbers are of has left its update out; raises NonFiniteError.

        Takes PARAMETERS out of the numbers.
        """
        parameters_are = numbers.pop(PARAMETERS)
        bad = [name for name in ("loss", "gradient_norm", *numbers) if not np.isfinite(numbers[name])]
        if not bad and parameters_are:
            return False
        if not bad:
            raise NonFiniteError("a parameter is not finite after the update")
        can_be_left_out = bool(left_out(numbers))
        if can_be_left_out and self.count < self.allowed:
            self.count += 1
            return True
        more = f", after {self.count} such steps were left out" if self.count else ""
        error = NonFiniteError(f"{bad[0]} is {float(numbers[bad[0]])}{more}")
        error.can_be_left_out = can_be_left_out
        raise error


def left_out(numbers: Mapping[str, Any]) -> Any:
    """Whether a step leaves its update out: on the host and in the step's program."""
    numpy = jnp if isinstance(numbers["loss"], jax.Array) else np
    return ~(numpy.isfinite(numbers["loss"]) & numpy.isfinite(numbers["gradient_norm"]))


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether no leaf has a NaN or an infinity."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def check_attempts(attempts: Iterable[Attempt]) -> None:
    """Raises NonFiniteError for a reward or the log-probability of a sampled token that isn't finite."""
    for attempt in attempts:
        if attempt.reward is not None and not np.isfinite(attempt.reward):
            raise NonFiniteError(f"a reward is {attempt.reward}")
        for trace in attempt.episode.traces:
            check_logprobs("the sampler's", trace.logprobs[trace.sampled])


def check_logprobs(whose: str, logprobs: np.ndarray) -> None:
    """Raises NonFiniteError if one of them isn't finite; `whose` they are."""
    bad = logprobs[~np.isfinite(logprobs)]
    if bad.size:
        raise NonFiniteError(f"{whose} log-probability of a token is {bad[0]}")


def remedies(stage: str, fields: Any) -> str:
    """What to change in the section of a stage, in words."""
    rates = ["learning_rate", *(["adam_learning_rate"] if fields.optimizer == "muon" else [])]
    named = [f"{stage}.{name} ({getattr(fields, name):g})" for name in (*rates, "grad_clip")]
    return ", ".join(named[:-1]) + f" or {named[-1]}"
