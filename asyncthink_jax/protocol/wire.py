"""The protocol in the tokens of one tokenizer: all that is needed to read and write it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence

from asyncthink_jax.protocol.automaton import TokenAutomaton
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.lifted import lifted


@dataclasses.dataclass(frozen=True, eq=False)
class Wire:
    """What the engine, the interpreter, demonstrations and benchmarks share.

    Attributes:
      grammar: capacity of the pool, and the number of ids.
      token_bytes: the bytes that each token of the vocabulary adds to the text; b"" for control tokens.
      worker_prefix, worker_suffix: the tokens around the sub-query in a worker's prompt. The suffix may not be empty:
        a worker whose sub-query is complete feeds it to sample its first token.
      close_join: for each id 1..max_forks the tokens of `</JOIN-i>`, inserted behind what worker i returned.
      stop_ids: the tokens that end a trace (end of text, of a turn, of a message). Their bytes are never looked at.
      vocab_size: rows of the model's embedding, where it has more of them than the tokenizer has tokens.
    """

    grammar: Grammar
    token_bytes: Sequence[bytes]
    worker_prefix: Sequence[int]
    worker_suffix: Sequence[int]
    close_join: Mapping[int, Sequence[int]]
    stop_ids: Collection[int] = ()
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        if not self.worker_suffix:
            raise ValueError("the worker prompt needs at least one token after the sub-query; its suffix is empty")

    @functools.cached_property
    def automaton(self) -> TokenAutomaton:
        """The tags as an automaton over these tokens. Raises ValueError as `automaton.lift` does."""
        return lifted(self.grammar.max_forks, self.token_bytes, self.vocab_size)

    @property
    def worker_frame(self) -> int:
        """Tokens of a worker's prompt beside its sub-query."""
        return len(self.worker_prefix) + len(self.worker_suffix)
