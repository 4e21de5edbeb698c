"""The tags as a deterministic automaton over bytes, and its lift to the tokens of a tokenizer.

Inside jit there is no text: Fork, Join, Return and Answer are found by one gather per token in the tables made here.
The tables say WHICH tag a token completes; whether it is legal there is the grammar's business (`protocol/rules.py`).
`grammar.py`'s regular expression is the definition; property tests hold the automaton to it.

The automaton is small because `<` stands only at the start of a tag: whatever the state, `<` starts a new tag, and any
other byte that doesn't continue the tag in progress leads back to the root, state 0. The id's digits are a trie of the
legal ids, beside one state (a loop over digits) for all ids out of range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asyncthink_jax.protocol.grammar import NUMBERED, UNNUMBERED, Tag

ROOT = 0
_DIGITS = b"0123456789"


@dataclasses.dataclass(frozen=True, eq=False)
class TagAutomaton:
    """The byte-level automaton; S states, state 0 is the root (no tag in progress).

    Attributes:
      next: int32[S, 256], the state after a byte.
      tag: int32[S, 256], the `Tag` that the byte completes, mostly NONE.
      tag_id: int32[S, 256], the id of a completed Fork or Join tag; 0 = out of range, or no id.
    """

    next: NDArray[np.int32]
    tag: NDArray[np.int32]
    tag_id: NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """The automaton over tokens; V tokens fall into C classes that act alike in every state.

    For a token t in state s, with k = token_class[t]: it completes `tag[s, k]` and leads to `next_state[s, k]`.
    Class 0 is plain text: it completes nothing and leads to the root from everywhere.

    Attributes:
      token_class: int32[V].
      next_state: int32[S, C].
      tag: int32[S, C], the `Tag` completed, or NONE.
      tag_id: int32[S, C], the id of a completed Fork or Join tag, 0 = out of range.
      begins: bool[S, C], True where the tag that the token completes, or else leaves in progress, has its `<` in this
        very token. So the first token of a tag is the last one with `begins` (a token that completes one tag and
        leaves another in progress begins that other one, whatever `begins` says of the completed one).
      in_tag: bool[S], a tag may be in progress: state != root.
    """

    token_class: NDArray[np.int32]
    next_state: NDArray[np.int32]
    tag: NDArray[np.int32]
    tag_id: NDArray[np.int32]
    begins: NDArray[np.bool_]
    in_tag: NDArray[np.bool_]


def tag_automaton(max_forks: int) -> TagAutomaton:
    """Builds the automaton of all tags with ids 1..max_forks legal and every other id reported as 0."""
    edges: list[dict[int, int]] = [{}]  # state -> byte -> state
    ends: dict[int, tuple[Tag, int]] = {}  # state in which `>` completes a tag -> (tag, id)

    def walk(state: int, path: bytes) -> int:
        for byte in path:
            if byte not in edges[state]:
                edges[state][byte] = len(edges)
                edges.append({})
            state = edges[state][byte]
        return state

    for slash in (0, 1):
        for opener in UNNUMBERED:
            ends[walk(ROOT, b"<" + b"/" * slash + opener.name.encode())] = (Tag(opener + slash), 0)
        for opener in NUMBERED:
            dash = walk(ROOT, b"<" + b"/" * slash + opener.name.encode() + b"-")
            in_trie = {dash}
            for i in range(1, max_forks + 1):
                digits = str(i).encode()
                in_trie |= {walk(dash, digits[:n]) for n in range(1, len(digits) + 1)}
                ends[walk(dash, digits)] = (Tag(opener + slash), i)
            wrong = len(edges)
            edges.append({})
            ends[wrong] = (Tag(opener + slash), 0)
            for state in in_trie | {wrong}:
                for digit in _DIGITS:
                    edges[state].setdefault(digit, wrong)

    states = len(edges)
    following, tag, tag_id = (np.zeros((states, 256), np.int32) for _ in range(3))
    for state, by_byte in enumerate(edges):
        for byte, target in by_byte.items():
            following[state, byte] = target
    following[:, ord("<")] = edges[ROOT][ord("<")]
    for state, (completed, completed_id) in ends.items():
        tag[state, ord(">")], tag_id[state, ord(">")] = completed, completed_id
    return TagAutomaton(following, tag, tag_id)


def lift(automaton: TagAutomaton, token_bytes: Sequence[bytes], vocab_size: int | None = None) -> TokenAutomaton:
    """The automaton over a vocabulary, given the bytes that each token adds to the text.

    Args:
      automaton: the byte-level one.
      token_bytes: for each token a byte string; control tokens are b"" and leave every state as it is.
      vocab_size: V, if the model has more rows than the tokenizer tokens (Qwen3: 151,936 and 151,669). The spare ones
        are as control tokens are.

    Raises:
      ValueError: the model has fewer rows than there are tokens; or a token would complete two tags at once, which one
        gather per token can't report.
    """
    spare = 0 if vocab_size is None else vocab_size - len(token_bytes)
    if spare < 0:
        raise ValueError(f"the vocabulary has {len(token_bytes)} tokens, the model rows for {vocab_size} only")
    token_bytes = [*token_bytes, *[b""] * spare]
    states = len(automaton.next)
    every_state = np.arange(states, dtype=np.int32)
    nothing = np.zeros(states, np.int32)
    plain = np.stack([nothing] * 4)
    classes: dict[bytes, int] = {plain.tobytes(): 0}
    columns: list[NDArray[np.int32]] = [plain]
    token_class = np.zeros(len(token_bytes), np.int32)
    # Most of a vocabulary is plain text by its first two bytes: no "<", and they continue no tag from any state.
    pairs = automaton.next[automaton.next]  # [state, first byte, second byte]
    continues = np.any(pairs != ROOT, axis=0) | np.any(automaton.tag > 0, axis=0)[:, None]
    continues |= np.any(automaton.tag[automaton.next] > 0, axis=0)

    for token, text in enumerate(token_bytes):
        if b"<" not in text and len(text) >= 2 and not continues[text[0], text[1]]:
            continue
        column = np.stack([every_state, nothing, nothing, nothing])  # next state, tag, id, begins
        for byte in text:
            state, tag = column[0], column[1]
            completed = automaton.tag[state, byte]
            if np.any((completed > 0) & (tag > 0)):
                raise ValueError(f"token {token} ({text!r}) can complete two tags at once; no such token is supported")
            if byte == ord("<"):
                column[3] = np.where(tag > 0, column[3], 1)
            column[1] = np.where(completed > 0, completed, tag)
            column[2] = np.where(completed > 0, automaton.tag_id[state, byte], column[2])
            column[0] = automaton.next[state, byte]
        column[3] &= (column[0] != ROOT) | (column[1] > 0)
        key = column.tobytes()
        if key not in classes:
            classes[key] = len(columns)
            columns.append(column)
        token_class[token] = classes[key]

    table = np.stack(columns, axis=-1)  # [4, S, C]
    return TokenAutomaton(
        token_class=token_class,
        next_state=np.ascontiguousarray(table[0]),
        tag=np.ascontiguousarray(table[1]),
        tag_id=np.ascontiguousarray(table[2]),
        begins=table[3].astype(np.bool_),
        in_tag=every_state != ROOT,
    )
