"""The lifted automaton of a large vocabulary, kept on disk: a second of work that every start would do again.

Nothing in the cache folder is needed, and a file that can't be read is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence

import numpy as np

from asyncthink_jax.copies import folder
from asyncthink_jax.protocol.automaton import TagAutomaton, TokenAutomaton, lift, tag_automaton

_FORMAT = b"1"  # counts up when `lift` makes other tables of the same vocabulary
_LARGE = 10_000  # tokens; smaller vocabularies are lifted faster than a file is found
_NAMES = [field.name for field in dataclasses.fields(TokenAutomaton)]


def lifted(max_forks: int, token_bytes: Sequence[bytes], vocab_size: int | None = None) -> TokenAutomaton:
    """`lift` of the automaton of `max_forks`, from the cache if it has it. Raises as `lift` does."""
    automaton = tag_automaton(max_forks)
    if len(token_bytes) < _LARGE:
        return lift(automaton, token_bytes, vocab_size)
    name = f"automaton-{_key(automaton, token_bytes, vocab_size)}.npz"
    try:
        with np.load(folder() / name, allow_pickle=False) as arrays:
            return TokenAutomaton(**{name: arrays[name] for name in _NAMES})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, or damaged
    table = lift(automaton, token_bytes, vocab_size)
    _write(name, table)
    return table


def _key(automaton: TagAutomaton, token_bytes: Sequence[bytes], vocab_size: int | None) -> str:
    digest = hashlib.sha256(_FORMAT)
    for table in (automaton.next, automaton.tag, automaton.tag_id):
        digest.update(table.tobytes())
    lengths = np.fromiter(map(len, token_bytes), np.int64, len(token_bytes))
    digest.update(np.array([vocab_size or 0, len(lengths), *lengths], np.int64).tobytes())
    digest.update(b"".join(token_bytes))
    return digest.hexdigest()[:32]


def _write(name: str, table: TokenAutomaton) -> None:
    """Whole or not at all: another process may read or write the same file. Without a place for it, not at all."""
    try:
        path = folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            try:
                np.savez(file, **{name: getattr(table, name) for name in _NAMES})
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        pass
