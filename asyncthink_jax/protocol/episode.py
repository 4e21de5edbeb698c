"""Trace and Episode, the nouns every part speaks, and their clock: critical path and concurrency ratio.

Time is counted in decoded tokens (paper, section 2): every running agent decodes one token a step; prompts and joined
text cost nothing. Steps are numbered from 1, the organizer's first token comes at step 1, so a trace that runs over
(start, end] decodes its first token at start + 1 and its last at end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asyncthink_jax.protocol.grammar import Role

End = Literal["answer", "return", "budget", "format_error", "stopped"]


@dataclasses.dataclass(frozen=True)
class Event:
    """One Fork or Join of an organizer.

    Attributes:
      action: "fork" (the sub-query was closed and the worker started) or "join".
      id: the sub-query's id.
      at: the trace's own decoded tokens up to and including the closing token of `</FORK-id>` or `<JOIN-id>`.
    """

    action: Literal["fork", "join"]
    id: int
    at: int


@dataclasses.dataclass(eq=False)
class Trace:
    """What one agent read and wrote; p prompt tokens, n tokens after it.

    Attributes:
      role: "organizer" or "worker".
      fork_id: the id of a worker's sub-query, None for an organizer.
      prompt: int32[p].
      tokens: int32[n], decoded and joined, in order (an end-of-text token included).
      sampled: bool[n], True = decoded by the agent, False = inserted at a Join (text and `</JOIN-i>`).
      logprobs: float32[n], of the decoded tokens in the distribution that they were drawn from, at the sampling
        temperature (1 if greedy), 0 where inserted.
      steps: int32[n], the step at which each token came; an inserted one has the step at which it could be read.
      events: an organizer's Forks and Joins, in order.
      end: why it ended: "answer", "return", "format_error", "budget" (tokens or row used up, or end-of-text), "stopped"
        (a worker still running when the organizer ended).
    """

    role: Role
    fork_id: int | None
    prompt: NDArray[np.int32]
    tokens: NDArray[np.int32]
    sampled: NDArray[np.bool_]
    logprobs: NDArray[np.float32]
    steps: NDArray[np.int32]
    events: list[Event]
    end: End

    @property
    def decoded_tokens(self) -> int:
        """How many of the tokens the agent decoded itself."""
        return int(np.count_nonzero(self.sampled))


@dataclasses.dataclass(eq=False)
class Episode:
    """What happened when one agent pool (or one or several independent organizers) thought about one prompt.

    Attributes:
      paradigm: "async", "sequential" or "parallel".
      agents: c, the capacity of the pool; in the parallel paradigm the number of organizers.
      traces: organizer first, then its workers by fork id; in the parallel paradigm organizers only.
      answer: the text in `<ANSWER>`, None if it was never closed.
      format_error: the name of a `FormatError` in lower case, None for a well-formed episode.
      critical_path: T, in decoded tokens.
      concurrency: eta / c, in 0..1.
    """

    paradigm: str
    agents: int
    traces: list[Trace]
    answer: str | None
    format_error: str | None
    critical_path: int
    concurrency: float


@dataclasses.dataclass(frozen=True, eq=False)
class Attempt:
    """An episode, the problem that it was about, and what it is worth.

    Attributes:
      task: the task's name. problem: its fields, as they go into a JSON file.
      seed: of the episode's random numbers.
      score: what the task's scorer says of the answer, None for a question without a known answer.
      reward: what the trainer makes of episode and score, None where nothing is scored.
    """

    task: str
    problem: dict[str, Any]
    seed: int
    episode: Episode
    score: dict[str, Any] | None
    reward: float | None

    def to_json(self, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
        """One line of `episodes.jsonl`; `decode` turns token ids into text."""
        episode = self.episode
        return {
            "task": self.task,
            "problem": self.problem,
            "paradigm": episode.paradigm,
            "agents": episode.agents,
            "seed": self.seed,
            "traces": [
                {
                    "role": trace.role,
                    "fork_id": trace.fork_id,
                    "prompt": decode(trace.prompt.tolist()),
                    "spans": [[kind, decode(tokens)] for kind, tokens in spans(trace)],
                    "decoded_tokens": trace.decoded_tokens,
                    "events": [dataclasses.asdict(event) for event in trace.events],
                    "start_step": life.start,
                    "end_step": life.end,
                    "end": trace.end,
                }
                for trace, life in zip(episode.traces, clock(episode.traces), strict=True)
            ],
            "answer": episode.answer,
            "score": self.score,
            "format_error": episode.format_error,
            "critical_path": episode.critical_path,
            "concurrency": episode.concurrency,
            "reward": self.reward,
        }


def spans(trace: Trace) -> list[tuple[Literal["decoded", "joined"], list[int]]]:
    """The tokens after the prompt, cut where decoded and joined text meet (two Joins in a row make one span)."""
    cuts = np.flatnonzero(np.diff(trace.sampled)) + 1
    pieces = zip(np.split(trace.tokens, cuts), np.split(trace.sampled, cuts), strict=True)
    return [("decoded" if sampled[0] else "joined", tokens.tolist()) for tokens, sampled in pieces if len(tokens)]


def side_by_side(episodes: Sequence[Episode], answer: str | None) -> Episode:
    """Independent traces of one problem, each an episode of its own, as one of the parallel paradigm.

    Its critical path is the longest trace. It is malformed if all its traces are. `answer` is the one that they were
    merged to.
    """
    total = max(episode.critical_path for episode in episodes)
    decoded = sum(episode.traces[0].decoded_tokens for episode in episodes)
    errors = [episode.format_error for episode in episodes]
    return Episode(
        paradigm="parallel",
        agents=len(episodes),
        traces=[episode.traces[0] for episode in episodes],
        answer=answer,
        format_error=errors[0] if all(errors) else None,
        critical_path=total,
        concurrency=decoded / (max(1, total) * len(episodes)),
    )


class Life(NamedTuple):
    """The steps over which a trace lived: it started after step `start` and ended with step `end`."""

    start: int
    end: int


def clock(traces: Sequence[Trace]) -> list[Life]:
    """When each trace started and ended, by the recurrence of the paper's section 2.

    Only events and counts of decoded tokens are read, never `steps`: so it holds for traces of any origin, and is an
    independent check of the engine's stamps. The organizer's clock is cut at its Joins; a fragment i of f_i tokens that
    ends at `<JOIN-k>`, where FORK-k closed f_j^k tokens into fragment j, gives

        l_i = max(l_{i-1} + f_i, l_{j-1} + f_j^k + w_k),        T = l_n.

    A Join on the organizer's very last token counts: it waits. A worker that would run on after T (a trace that isn't
    cut yet) ends at T. Several organizers are independent traces and have no workers.

    Args:
      traces: of one episode.

    Returns:
      One Life per trace, in the same order.

    Raises:
      ValueError: an event names a worker that isn't there, a worker was never forked, or there are workers but not
        exactly one organizer.
    """
    organizers = [trace for trace in traces if trace.role == "organizer"]
    workers = {trace.fork_id: trace.decoded_tokens for trace in traces if trace.role == "worker"}
    if len(organizers) != 1:
        if workers or any(trace.events for trace in organizers):
            raise ValueError(f"an episode with workers has one organizer, this one has {len(organizers)}")
        return [Life(0, trace.decoded_tokens) for trace in organizers]
    organizer = organizers[0]
    known = {event.id for event in organizer.events if event.action == "fork"}
    if known != set(workers):
        raise ValueError(f"the organizer forks {sorted(known)}, but the workers' ids are {sorted(map(str, workers))}")

    now, counted = 0, 0  # the organizer's step after `counted` of its decoded tokens
    start: dict[int | None, int] = {}
    for event in organizer.events:
        now, counted = now + event.at - counted, event.at
        if event.action == "fork":
            start[event.id] = now
        elif event.id in start:
            now = max(now, start[event.id] + workers[event.id])
        else:
            raise ValueError(f"JOIN-{event.id} stands before its fork")
    end = now + organizer.decoded_tokens - counted
    return [
        Life(0, end)
        if trace.role == "organizer"
        else Life(start[trace.fork_id], min(start[trace.fork_id] + trace.decoded_tokens, end))
        for trace in traces
    ]


def critical_path(traces: Sequence[Trace]) -> int:
    """T, the latency of an episode in decoded tokens: the step at which its (last) organizer ends."""
    lives = clock(traces)
    return max((life.end for life, trace in zip(lives, traces, strict=True) if trace.role == "organizer"), default=0)


def concurrency_ratio(traces: Sequence[Trace]) -> float:
    """eta, the agents that decode at a step, averaged over the T steps of the critical path (paper, section 2).

    The organizer counts while it decodes, not while it waits; a worker's tokens count up to T. Divide by the capacity c
    for eta / c. A purely sequential episode has eta = 1, one without any decoded token 0.
    """
    steps = critical_path(traces)
    decoded = sum(
        trace.decoded_tokens if trace.role == "organizer" else life.end - life.start
        for life, trace in zip(clock(traces), traces, strict=True)
    )
    return decoded / steps if steps else 0.0
