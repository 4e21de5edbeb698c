"""What a rollout leaves behind: the engine's arrays on the host, and the Episodes made of them."""

import dataclasses
import sys
import typing
from collections.abc import Sequence

import numpy as np

from asyncthink_jax.protocol.episode import End, Episode, Event, Trace, critical_path
from asyncthink_jax.protocol.grammar import FormatError
from asyncthink_jax.rollout.state import TraceEnd


@dataclasses.dataclass(frozen=True)
class Rollout:
    """n episodes of at most T traces (0 = organizer, i = worker of FORK-i) of at most L tokens.

    They are finished, or, where somebody watches, as far as they have come: a trace that is RUNNING in a `record` whose
    organizer is RUNNING too has more to come.

    `tokens`, `sampled`, `logprobs` and `steps` are [n, T, L], as in the engine's State; `record` has
    the fields of the engine's Episodes as NumPy arrays [n, T] or [n]; `prompt_lengths` is [n], and so is `numbers`:
    which of the prompts each episode belongs to. With one process these are all, in order, with several those that ran
    on devices of this one; what is counted (`engine_steps`, `occupancy`, `prefills`) is of all devices.
    """

    numbers: np.ndarray
    tokens: np.ndarray
    sampled: np.ndarray
    logprobs: np.ndarray
    steps: np.ndarray
    record: dict[str, np.ndarray]
    prompt_lengths: np.ndarray
    worker_frame: int  # tokens of a worker's prompt beside the sub-query
    worker_length: int  # known tokens that a worker's row can hold
    agents: int
    engine_steps: int
    occupancy: float  # share of row-steps that sampled a token
    prefills: int  # prompts that were read at once

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def answer(self, n: int, token_bytes: Sequence[bytes]) -> str | None:
        """The text between `<ANSWER>` and `</ANSWER>` of episode n, None if it has not answered.

        `token_bytes`: the bytes of each token of the vocabulary. A token may hold a tag and a part of the answer, one
        beyond the vocabulary (a spare row of the model) holds nothing.
        """
        if self.record["end"][n, 0] != TraceEnd.ANSWER:
            return None
        tokens = self.tokens[n, 0, : self.record["known"][n, 0]]
        text = b"".join(token_bytes[token] for token in tokens if token < len(token_bytes))
        # It was the last tag to be opened, and its closer ended the trace.
        start = text.rindex(b"<ANSWER>") + len(b"<ANSWER>")
        return text[start : text.rindex(b"</ANSWER>")].decode("utf-8", "replace")

    def episode(self, n: int, token_bytes: Sequence[bytes], paradigm: str = "async") -> Episode:
        """Episode n as the rest of the project speaks of it; `token_bytes` as of `answer`.

        What a worker decoded after the organizer's last step is cut: the organizer's end stops every worker. Of an
        episode that is not finished, all that has been decoded is there; its running traces are "stopped", the
        organizer's too.
        """
        r = {name: values[n] for name, values in self.record.items()}
        runs = r["end"][0] == TraceEnd.RUNNING
        total = sys.maxsize if runs else int(r["clock"][0])
        traces = [self._organizer(n, r)]
        error = int(r["error"][0])
        if r["end"][0] == TraceEnd.BUDGET:
            error = FormatError.NO_ANSWER
        worker_errors = []
        for i in range(1, self.tokens.shape[1]):
            if r["fork_at"][i] == 0:
                continue
            traces.append(self._worker(n, i, r, total))
            if traces[-1].end == "format_error":
                worker_errors.append((int(r["clock"][i]), i, int(r["error"][i])))
        if not error and worker_errors:
            error = min(worker_errors)[2]
        if runs:  # the organizer's clock stands still while it waits
            total = critical_path(traces)
        decoded = sum(trace.decoded_tokens for trace in traces)
        return Episode(
            paradigm=paradigm,
            agents=self.agents,
            traces=traces,
            answer=self.answer(n, token_bytes),
            format_error=FormatError(error).name.lower() if error else None,
            critical_path=total,
            concurrency=decoded / (max(1, total) * self.agents),
        )

    def _organizer(self, n: int, r: dict[str, np.ndarray]) -> Trace:
        start, stop = int(self.prompt_lengths[n]), int(r["known"][0])
        sampled = self.sampled[n, 0, start:stop].copy()
        steps = self.steps[n, 0, start:stop].copy()
        forks = [Event("fork", i, int(at)) for i, at in enumerate(r["fork_at"]) if at]
        joins = [Event("join", i, int(at)) for i, at in enumerate(r["join_at"]) if at]
        # Inserted tokens carry the step at which they could be read: the organizer's own, or its worker's end.
        decoded = np.cumsum(sampled)
        for join in joins:
            inserted = ~sampled & (decoded == join.at)
            own = int(steps[sampled][join.at - 1])
            steps[inserted] = max(own, int(r["clock"][join.id]))
        return Trace(
            role="organizer",
            fork_id=None,
            prompt=self.tokens[n, 0, :start].copy(),
            tokens=self.tokens[n, 0, start:stop].copy(),
            sampled=sampled,
            logprobs=self.logprobs[n, 0, start:stop].copy(),
            steps=steps,
            events=sorted(forks + joins, key=lambda event: event.at),
            end=_end(r["end"][0]),
        )

    def _worker(self, n: int, i: int, r: dict[str, np.ndarray], total: int) -> Trace:
        known = int(r["known"][i])
        prompt = max(0, int(r["sub_end"][i] - r["sub_start"][i])) + self.worker_frame
        start = min(self.worker_length, prompt, known)  # of a worker that still takes its prompt less is known
        # A worker decodes nothing but its own tokens after its prompt, one a step: those up to `total` come first.
        stop = start + int(np.sum(self.steps[n, i, start:known] <= total))
        cut = stop < known or int(r["clock"][i]) > total
        end = "stopped" if cut else _end(r["end"][i])
        own = slice(start, stop)
        return Trace(
            role="worker",
            fork_id=i,
            prompt=self.tokens[n, i, :start].copy(),
            tokens=self.tokens[n, i, own].copy(),
            sampled=self.sampled[n, i, own].copy(),
            logprobs=self.logprobs[n, i, own].copy(),
            steps=self.steps[n, i, own].copy(),
            events=[],
            end=end,
        )


def _end(number: int) -> End:
    return "stopped" if number == TraceEnd.RUNNING else typing.cast(End, TraceEnd(number).name.lower())
