"""One episode, token by token, in plain Python: what the engine must do, for any model and any tokenizer.

The engine decodes all agents side by side; here the organizer runs first and each worker is run to its end when a Join
needs it (or up to the last step T, when none does). Both give the same episode, since a worker depends on its sub-query
alone and the organizer on returned text alone. What they share beyond the grammar's table:

- After each decoded token, first the tag that it completes is acted on, so an Answer, a Return, a Fork, a Join or a
  format error on the very last token counts. Then a trace that would decode on ends by "budget" if its decoded tokens
  reach its budget or its known tokens (prompt, decoded, joined) fill the row.
- A Join on the organizer's last token waits and is an event; the returned tokens are inserted as far as the row goes,
  and only then the organizer ends.
- End-of-text is a decoded token of the trace, costs a step, ends it by "budget", and is never part of a returned text.
- A prompt that fills the row leaves no room to decode: the trace ends at once by "budget" with no token. A worker's
  prompt is cut at the end of the row; an organizer's that is too long is the caller's mistake.
- A sub-query and a returned text are the tokens that lie wholly between the tokens that hold the two tags. A tag may
  be of several tokens. Where a tokenizer merges a tag with the text around it, the merged token is left out.
- The answer is text, exactly what stands between the tags, as UTF-8 with U+FFFD for what isn't.
- A worker whose `</FORK-i>` came at step s decodes its first token at step s + 1. The organizer's step after a Join is
  the later of its own and the worker's last one, and the inserted tokens carry it.
- A Fork that was opened but never closed makes no worker trace; a worker with no token yet is a trace all the same.
"""

from __future__ import annotations

import bisect
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from asyncthink_jax.protocol.episode import End, Episode, Event, Trace, concurrency_ratio
from asyncthink_jax.protocol.grammar import FormatError, Role, Tag
from asyncthink_jax.protocol.parser import Action, Parser
from asyncthink_jax.protocol.wire import Wire

NextToken = Callable[[int, list[int]], int]  # (trace id, the trace's known tokens) -> the next token


def run(
    wire: Wire,
    prompt: Sequence[int],
    next_token: NextToken,
    organizer_budget: int,
    worker_budget: int,
    context: int,
    worker_context: int | None = None,
) -> Episode:
    """Runs one episode of the protocol.

    Args:
      wire: the protocol in tokens.
      prompt: the organizer's prompt, as tokens.
      next_token: the model. Trace id 0 is the organizer, i the worker of FORK-i. It is called once per decoded token,
        in order within a trace, but workers are called late (at their Join) and never for a step after T.
      organizer_budget, worker_budget: the most tokens that the organizer, and each worker, may decode.
      context: the most tokens a trace may know (the length of an engine row).
      worker_context: the same for workers; default `context`.

    Returns:
      The Episode, logprobs 0.

    Raises:
      ValueError: the prompt is longer than the context.
    """
    if len(prompt) > context:
        raise ValueError(f"the prompt has {len(prompt)} tokens, the context only {context}")
    worker_context = context if worker_context is None else worker_context
    model = _Model(wire, next_token, context, worker_context)
    organizer = _Row(model, 0, prompt, organizer_budget, start=0)
    workers: dict[int, _Row] = {}
    opener = Action(Tag.NONE, 0, 0, 0)  # the Fork or Answer opened last
    answer = None

    while not organizer.over():
        for action in organizer.decode():
            if action.error:
                break
            if action.tag in (Tag.FORK, Tag.ANSWER):
                opener = action
            elif action.tag == Tag.END_FORK:
                sub_query = organizer.between(opener, action)
                worker_prompt = [*wire.worker_prefix, *sub_query, *wire.worker_suffix][:worker_context]
                workers[action.id] = _Row(model, action.id, worker_prompt, worker_budget, start=organizer.step)
                organizer.events.append(Event("fork", action.id, len(organizer.decoded)))
            elif action.tag == Tag.JOIN:
                worker = workers[action.id]
                worker.run_until(sys.maxsize)
                organizer.events.append(Event("join", action.id, len(organizer.decoded)))
                organizer.step = max(organizer.step, worker.step)
                organizer.insert([*worker.returned(), *wire.close_join[action.id]])
            elif action.tag == Tag.END_ANSWER:
                answer = bytes(organizer.text[opener.end : action.start]).decode("utf-8", "replace")

    last_step = organizer.step
    error = organizer.parser.finish()
    for worker in workers.values():
        worker.run_until(last_step)
    if not error:
        failed = [(worker.step, i, worker.parser.error) for i, worker in workers.items() if worker.parser.error]
        error = min(failed)[2] if failed else FormatError.NONE

    traces = [row.trace() for row in (organizer, *(workers[i] for i in sorted(workers)))]
    return Episode(
        paradigm="async",
        agents=wire.grammar.capacity,
        traces=traces,
        answer=answer,
        format_error=error.name.lower() if error else None,
        critical_path=last_step,
        concurrency=concurrency_ratio(traces) / wire.grammar.capacity,
    )


def demonstration(
    wire: Wire,
    prompt: Sequence[int],
    organizer_script: Sequence[int],
    worker_scripts: Mapping[int, Sequence[int]],
    organizer_budget: int = sys.maxsize,
    worker_budget: int = sys.maxsize,
    context: int = sys.maxsize,
) -> Episode:
    """Runs scripted agents through the protocol: an Episode to learn from, its joined text and clock filled in.

    Args:
      organizer_script: the tokens the organizer decodes, without any joined text or `</JOIN-i>`.
      worker_scripts: for each id that the organizer forks, the tokens that its worker decodes.
      The others are those of `run`; there is no limit by default.

    Returns:
      The Episode. A format error isn't raised: see `format_error`. What a script says after its trace's end is unused.

    Raises:
      ValueError: a script ends before its trace does, is missing, or belongs to an id that is never forked.
    """
    scripts = {0: iter(organizer_script)} | {i: iter(script) for i, script in worker_scripts.items()}

    def scripted(trace_id: int, known: list[int]) -> int:
        token = next(scripts.get(trace_id, iter(())), None)
        if token is None:
            who = f"worker {trace_id}" if trace_id else "the organizer"
            raise ValueError(f"the script of {who} is missing or ends too early")
        return token

    episode = run(wire, prompt, scripted, organizer_budget, worker_budget, context)
    unused = set(worker_scripts) - {trace.fork_id for trace in episode.traces}
    if unused:
        raise ValueError(f"there are scripts for workers that are never forked: {sorted(unused)}")
    return episode


@dataclasses.dataclass(frozen=True)
class _Model:
    """What all the rows of an episode share."""

    wire: Wire
    next_token: NextToken
    context: int
    worker_context: int


class _Row:
    """A trace being written. `step` is the step of its latest token, or at which it could decode on after a Join."""

    def __init__(self, model: _Model, trace_id: int, prompt: Sequence[int], budget: int, start: int):
        self.model = model
        self.trace_id = trace_id
        self.role: Role = "worker" if trace_id else "organizer"
        self.prompt = list(prompt)
        self.budget = budget
        self.context = model.worker_context if trace_id else model.context
        self.step = start
        self.parser = Parser(self.role, model.wire.grammar)
        self.tokens: list[int] = []
        self.sampled: list[bool] = []
        self.steps: list[int] = []
        self.events: list[Event] = []
        self.decoded: list[int] = []
        self.text = bytearray()  # of the decoded tokens
        self.starts: list[int] = []  # of each decoded token, in `text`
        self.actions: list[Action] = []
        self.end: End | None = None

    def over(self) -> bool:
        """Whether the trace has ended; this is where budget and row are looked at."""
        full = len(self.decoded) >= self.budget or len(self.prompt) + len(self.tokens) >= self.context
        if self.end is None and full:
            self.end = "budget"
        return self.end is not None

    def decode(self) -> list[Action]:
        """Decodes one token and says which tags it completes."""
        token = self.model.next_token(self.trace_id, self.prompt + self.tokens)
        self.step += 1
        self._know(token, sampled=True)
        if token in self.model.wire.stop_ids:
            self.end = "budget"
            return []
        self.decoded.append(token)
        self.starts.append(len(self.text))
        self.text += self.model.wire.token_bytes[token]
        # Latin-1 makes each byte a character, so that a token may hold a part of a UTF-8 sequence; tags are ASCII.
        actions = self.parser.feed(self.model.wire.token_bytes[token].decode("latin-1"))
        self.actions += actions
        if self.parser.error:
            self.end = "format_error"
        elif self.parser.done:
            self.end = "return" if self.role == "worker" else "answer"
        return actions

    def insert(self, tokens: Sequence[int]) -> None:
        """Makes joined tokens known, as far as the row goes."""
        for token in tokens[: self.context - len(self.prompt) - len(self.tokens)]:
            self._know(token, sampled=False)
        self.parser.interrupt()

    def run_until(self, last_step: int) -> None:
        """Runs a worker to its end, or stops it at `last_step`."""
        while not self.over() and self.step < last_step:
            self.decode()
        self.end = self.end or "stopped"

    def between(self, opener: Action, closer: Action | None) -> list[int]:
        """The decoded tokens wholly between two tags; to the end of the trace where there is no second one."""
        first = bisect.bisect_right(self.starts, opener.end - 1)
        last = bisect.bisect_right(self.starts, closer.start) - 1 if closer else len(self.decoded)
        return self.decoded[first:last]

    def returned(self) -> list[int]:
        """What a Join reads of a worker that has ended: its Return, up to the tag that ended the trace, if one did."""
        if not self.actions or self.actions[0].error:
            return []
        return self.between(self.actions[0], self.actions[1] if len(self.actions) > 1 else None)

    def trace(self) -> Trace:
        assert self.end is not None
        return Trace(
            role=self.role,
            fork_id=self.trace_id or None,
            prompt=np.array(self.prompt, np.int32),
            tokens=np.array(self.tokens, np.int32),
            sampled=np.array(self.sampled, np.bool_),
            logprobs=np.zeros(len(self.tokens), np.float32),
            steps=np.array(self.steps, np.int32),
            events=self.events,
            end=self.end,
        )

    def _know(self, token: int, sampled: bool) -> None:
        self.tokens.append(token)
        self.sampled.append(sampled)
        self.steps.append(self.step)
