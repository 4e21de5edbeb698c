"""Whether an answer of another model becomes a demonstration: the protocol, the budgets and the task's score decide."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from asyncthink_jax.config import Config, ConfigError
from asyncthink_jax.data.pipeline import played
from asyncthink_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from asyncthink_jax.data.tokenizer import Tokenizer, prompts_for
from asyncthink_jax.data.tokenizer_files import load_tokenizer
from asyncthink_jax.model.sources import TOKENIZER_PATTERNS, local_path
from asyncthink_jax.protocol.episode import Episode
from asyncthink_jax.protocol.grammar import Grammar, tag_literals
from asyncthink_jax.protocol.prompts import TINY, Prompts
from asyncthink_jax.synthesis.plans import Plan, skeleton, skeleton_of
from asyncthink_jax.synthesis.reading import Dropped, Traces, read_traces
from asyncthink_jax.tasks.task import Score, Script, Task

# Why an answer is dropped, in the order in which it is looked at; the table at the end has these words.
REASONS = {
    "refused": "the model wrote nothing, or said that it would not",
    "only_reasoning": "the model reasoned, and wrote no answer",
    "cut_off": "the answer reached the limit of --max_answer_tokens",
    "unreadable": "sections are missing or stand there twice",
    "no_fragments": "step 1 found nothing that can be thought about by itself",
    "no_return": "a worker has no <RETURN>..</RETURN>",
    "joined_text": "what a Join inserts is not what the worker returned",
    "fork_twice": "an id is forked twice",
    "pool_full": "a Fork while all workers are active",
    "join_unknown": "a Join of an id that was not forked",
    "join_twice": "an id is joined twice",
    "nested_tag": "a tag inside a Fork, Answer or Return (one that is never closed, too)",
    "stray_tag": "a closing tag without its opening one",
    "wrong_role": "a tag of the other role",
    "id_out_of_range": "an id above pool.max_forks",
    "no_answer": "no <ANSWER>..</ANSWER>",
    "missing_worker": "a forked worker that has no text",
    "unforked_worker": "a worker that is never forked",
    "empty_sub_query": "a Fork with nothing in it",
    "other_sequence": "the forks and joins are not those that were asked for",
    "unknown_words": "text that the tokenizer of the run can't write",
    "budget": "longer than the config's budgets, contexts or rows",
    "wrong_answer": "the answer isn't (all) right",
}


@dataclasses.dataclass(frozen=True)
class Judge:
    """What a demonstration must be.

    Attributes:
      task: scores answers.
      grammar: of the pool.
      config: budgets, contexts and the length of a row of the cold start.
      tokenizer, prompts: those of the run that will train; budgets are in its tokens.
      keep_wrong: an answer need not be right. keep_unplanned: forks and joins need not be those of the plan.
    """

    task: Task[Any]
    grammar: Grammar
    config: Config
    tokenizer: Tokenizer
    prompts: Prompts
    keep_wrong: bool = False
    keep_unplanned: bool = False

    def script(self, problem: Any, plan: Plan, text: str) -> Script:
        """The demonstration in an answer to the second question. Raises Dropped, with a reason of `REASONS`."""
        traces = read_traces(text, self.grammar)
        if not self.keep_unplanned and skeleton_of(traces.actions) != skeleton(plan):
            asked, written = ", ".join(skeleton(plan)), ", ".join(skeleton_of(traces.actions))
            raise Dropped("other_sequence", f"asked for {asked or 'no fork'}; it has {written or 'no fork'}")
        self._check_words(traces)
        script = Script(problem, traces.organizer, traces.work, traces.workers, traces.returns)
        episode = played(script, self.tokenizer, self.grammar, self.prompts)
        if episode.format_error:  # the text is well-formed: only a tokenizer that changes it could come to this
            raise Dropped(episode.format_error, "as the tokenizer of the run cuts it")
        self._check_lengths(episode)
        score: Score = self.task.score(problem, episode.answer)
        if not self.keep_wrong and (score["accuracy"] < 1 or score["wrong"]):
            raise Dropped(
                "wrong_answer", f"{json.dumps(episode.answer, ensure_ascii=False)} scores {json.dumps(score)}"
            )
        return script

    def _check_words(self, traces: Traces) -> None:
        for text in (*traces.organizer, *traces.workers.values()):
            read = self.tokenizer.decode(self.tokenizer.encode(text))
            if read != text:
                place = next((i for i, (a, b) in enumerate(zip(text, read, strict=False)) if a != b), len(read))
                raise Dropped("unknown_words", f"at {text[place : place + 20]!r}")

    def _check_lengths(self, episode: Episode) -> None:
        rollout, row = self.config.rollout, self.config.sft.row_length
        for trace in episode.traces:
            who = "the organizer" if trace.fork_id is None else f"worker {trace.fork_id}"
            budget = "organizer_budget" if trace.fork_id is None else "worker_budget"
            context = "worker_context" if trace.fork_id is not None and rollout.worker_context else "context"
            known = len(trace.prompt) + len(trace.tokens)
            for field, limit, length in (
                (f"rollout.{budget}", getattr(rollout, budget), trace.decoded_tokens),
                (f"rollout.{context}", getattr(rollout, context), known),
                ("sft.row_length", row, known),
            ):
                if length > limit:
                    raise Dropped("budget", f"{who} has {length} tokens, {field} is {limit}")


def reader(config: Config, grammar: Grammar, named: str | None) -> tuple[Tokenizer, Prompts]:
    """The tokenizer and the prompts of the run that will train on what is kept, before there is a run.

    Args:
      config: of the run.
      grammar: of its pool.
      named: a tokenizer's file or folder, a GGUF or a hub id, of which the tokenizer's files alone are fetched. Default
        what `pretrained` names, else one of the task's words, as a run from scratch trains it.

    Raises:
      ConfigError: there is none, or it can't be read.
    """
    source = named or config.pretrained
    if "://" in source:
        raise ConfigError(f"{source} is a bucket, with all weights in it: name a copy of its tokenizer by --tokenizer")
    try:
        if not source:
            with tempfile.TemporaryDirectory() as folder:
                texts, symbols = config.task.tokenizer_texts(), tag_literals(config.pool.max_forks)
                return SentencePieceTokenizer.train(texts, symbols, Path(folder) / "tokenizer.model"), TINY
        tokenizer = load_tokenizer(local_path(source, TOKENIZER_PATTERNS))
        return tokenizer, prompts_for(tokenizer, grammar, config.task.instructions)
    except (ValueError, FileNotFoundError) as error:
        hint = "" if named or not source else "; a copy of its tokenizer, a file or folder, is named by --tokenizer"
        raise ConfigError(f"{error}{hint}") from error
