"""Iterators: problems for RL, packed demonstrations for SFT. Both are grain iterators whose state is one small dict.

`iterator.get_state()` and `set_state(state)` go into and come out of a checkpoint. An element depends on (seed, index)
alone, so an iterator that is set to a state goes on exactly as the one it was taken from. Demonstrations are made on
the fly and never repeat: a thousand tokens take about a millisecond, so nothing is gained by storing them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import grain.python as grain
import numpy as np

from asyncthink_jax.data import packing
from asyncthink_jax.data.tokenizer import Tokenizer, organizer_tokens, wire, worker_tokens
from asyncthink_jax.protocol.episode import Attempt, Episode
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.interpreter import demonstration
from asyncthink_jax.protocol.prompts import TINY, Prompts
from asyncthink_jax.tasks.task import Kind, Problem, Script, Splits, Task

# One element at a time, when it is asked for: it costs less than a thread's share of a busy machine.
_IN_THIS_THREAD = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)

# Drawing stops beyond this share of a batch's tokens. Of the demo's batches (16 x 256) 96% are tokens then, and 1.2% of
# the workers find no room; at 1.0 it would be 97.7%, but 12% of the workers, all of them short, would be missing.
_FILL = 0.93


def problem_iterator(problems: Sequence[Problem], seed: int) -> grain.DatasetIterator:
    """The problems for ever, each once an epoch, every epoch in another order that `seed` fixes."""
    return iter(grain.MapDataset.source(problems).seed(seed).shuffle().repeat().to_iter_dataset(_IN_THIS_THREAD))


@dataclass(frozen=True)
class Demonstrations:
    """Where demonstrations come from.

    task: says how they are drawn and weighed.
    splits: problems that the task's program demonstrates.
    kind: of those by program, see `Task.script`.
    scripts: what is drawn from in place of the program, where there are any.
    """

    task: Task
    splits: Splits
    kind: Kind
    tokenizer: Tokenizer
    prompts: Prompts = TINY
    agents: int = 4
    scripts: Sequence[Script] = ()

    def script(self, rng: np.random.Generator) -> Script:
        """One demonstration as text, drawn at random. Raises ValueError for a task that no program demonstrates."""
        if self.scripts:
            return self.scripts[int(rng.integers(len(self.scripts)))]
        return self.task.script(self.splits, self.kind, self.agents, rng)


def demonstration_iterator(
    demonstrations: Demonstrations, rows: int, row_length: int, seed: int
) -> grain.DatasetIterator:
    """Packed batches for ever: `tokens`, `positions`, `segment_ids` int32, `loss_weights` float32, each [rows, L]."""

    def batch(index: int) -> dict[str, np.ndarray]:
        return packed_batch(demonstrations, rows, row_length, np.random.default_rng((seed, index)))

    return iter(grain.MapDataset.range(1 << 40).map(batch).to_iter_dataset(_IN_THIS_THREAD))


def packed_batch(
    demonstrations: Demonstrations, rows: int, row_length: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """One batch of fresh demonstrations, see `demonstration_iterator`.

    Demonstrations are drawn until the batch is nearly full, then packed; a trace that finds no room is dropped (1% of
    them, the shortest ones). Raises ValueError as `drawn_traces` does.
    """
    traces: list[packing.Trace] = []
    tokens = 0
    while tokens < _FILL * rows * row_length:
        new = drawn_traces(demonstrations, row_length, rng)
        traces += new
        tokens += sum(len(trace["tokens"]) for trace in new)
    pad = demonstrations.tokenizer.pad_id or 0  # no trace sees it: any token does where there is none for it
    batch, _ = packing.pack(traces, row_length, rows, pad)
    return batch


def drawn_traces(
    demonstrations: Demonstrations, row_length: int, rng: np.random.Generator, work_only: bool = False
) -> list[packing.Trace]:
    """The rows of one fresh demonstration, organizer first, see `training_traces`.

    A share `worker_keep` of the workers is kept. With `work_only` the traces in which nothing is trained are left out.
    A demonstration with a trace longer than `row_length` is drawn again; raises ValueError after 1,000 of them.
    """
    source, task = demonstrations, demonstrations.task
    marked = task.mark, task.mark_weight, task.answer_weight
    longest = 0
    for _ in range(1000):
        traces = training_traces(source.script(rng), source.tokenizer, source.prompts, work_only, *marked)
        traces = [trace for i, trace in enumerate(traces) if i == 0 or rng.random() < task.worker_keep]
        longest = max(len(trace["tokens"]) for trace in traces)
        if longest <= row_length:
            return [trace for trace in traces if trace["loss_weights"].any()] if work_only else traces
    raise ValueError(f"row_length {row_length} is too short for the demonstrations, of {longest} tokens")


def training_traces(
    script: Script,
    tokenizer: Tokenizer,
    prompts: Prompts = TINY,
    work_only: bool = False,
    mark: str = "",
    mark_weight: float = 1.0,
    answer_weight: float = 1.0,
) -> list[packing.Trace]:
    """The rows that a demonstration trains, organizer first: `tokens` int32[n] and `loss_weights` float32[n].

    The weight is 1 for what the role writes, 0 for prompts and for what a Join inserts; the word `mark` weighs
    `mark_weight`, and the answer and what ends it `answer_weight` times that (not its opening tag: that would have the
    model answer earlier). The same tokens as those of `played(script, ..)`, at a fraction of the cost; but a worker
    that the answer would have stopped is trained on to its end, since what it would have written is right all the same.
    With `work_only` an organizer's weight is 0 for all that organizes.
    """
    encode = tokenizer.encode_piece
    marked = encode(f" {mark}")[-1] if mark else None
    rows: list[tuple[list[int], list[float]]] = []

    def add(piece: Sequence[int], weight: float) -> None:
        tokens, weights = rows[-1]
        tokens.extend(piece)
        if marked in piece:
            weights.extend([weight * mark_weight if token == marked else weight for token in piece])
        else:
            weights.extend([weight] * len(piece))

    prefix, suffix = worker_tokens(tokenizer, prompts)
    rows.append(([], []))
    add(organizer_tokens(tokenizer, prompts, script.problem.query), 0.0)
    joins = {f"<JOIN-{fork_id}>": fork_id for fork_id in script.workers}
    queries: list[str] = []  # in the order of the forks, which is that of the script's workers
    weight, before = 1.0, ""
    for place, piece in enumerate(script.organizer):
        add(encode(piece), 0.0 if work_only and place not in script.work else weight)
        if piece in joins:
            add(encode(script.returns[joins[piece]]), 0.0)
            add(encode(f"</JOIN-{joins[piece]}>"), 0.0)
        elif piece == "<ANSWER>":
            weight = answer_weight
        elif before.startswith("<FORK-"):
            queries.append(piece)
        before = piece
    for query, text in zip(queries, script.workers.values(), strict=True):
        rows.append(([], []))
        add([*prefix, *encode(query), *suffix], 0.0)
        for piece in _worker_pieces(text):
            add(encode(piece), 1.0)
    return [{"tokens": np.array(t, np.int32), "loss_weights": np.array(w, np.float32)} for t, w in rows]


def attempt(task: Task, script: Script, tokenizer: Tokenizer, grammar: Grammar, prompts: Prompts = TINY) -> Attempt:
    """A demonstration as an attempt, its answer scored: what reports and figures draw."""
    episode = played(script, tokenizer, grammar, prompts)
    score = dict(task.score(script.problem, episode.answer))
    return Attempt(task.name, script.problem.to_json(), 0, episode, score, reward=None)


def played(script: Script, tokenizer: Tokenizer, grammar: Grammar, prompts: Prompts = TINY) -> Episode:
    """A demonstration run through the protocol, in the tokens it is trained on: joined text and clock are filled in."""

    def tokens(pieces: Iterable[str]) -> list[int]:
        return [token for piece in pieces for token in tokenizer.encode_piece(piece)]

    return demonstration(
        wire(tokenizer, prompts, grammar),
        organizer_tokens(tokenizer, prompts, script.problem.query),
        tokens(script.organizer),
        {fork_id: tokens(_worker_pieces(text)) for fork_id, text in script.workers.items()},
    )


def _worker_pieces(text: str) -> tuple[str, ...]:
    """A worker's whole text: thoughts and takeaways, and the tags around these."""
    thoughts, takeaways = text.removesuffix("</RETURN>").split("<RETURN>")
    return thoughts, "<RETURN>", takeaways, "</RETURN>"
