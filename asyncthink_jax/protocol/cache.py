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
from pathlib import Path

import numpy as np

from asyncthink_jax.protocol.automaton import TagAutomaton, TokenAutomaton, lift, tag_automaton

FOLDER = "ASYNCTHINK_CACHE"  # an environment variable
_FORMAT = b"1"  # counts up when `lift` makes other tables of the same vocabulary
_LARGE = 10_000  # tokens; smaller vocabularies are lifted faster than a file is found
_NAMES = [field.name for field in dataclasses.fields(TokenAutomaton)]


def lifted(max_forks: int, token_bytes: Sequence[bytes], vocab_size: int | None = None) -> TokenAutomaton:
    """`lift` of the automaton of `max_forks`, from the cache if it has it. Raises as `lift` does."""
    automaton = tag_automaton(max_forks)
    if len(token_bytes) < _LARGE:
        return lift(automaton, token_bytes, vocab_size)
    path = folder() / f"automaton-{_key(automaton, token_bytes, vocab_size)}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return TokenAutomaton(**{name: arrays[name] for name in _NAMES})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, or damaged
    table = lift(automaton, token_bytes, vocab_size)
    _write(path, table)
    return table


def folder() -> Path:
    """That of ASYNCTHINK_CACHE, else `asyncthink_jax` in the user's cache folder (XDG_CACHE_HOME, else `~/.cache`).

    For whatever can be made or fetched again.
    """
    own = os.environ.get(FOLDER)
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asyncthink_jax"


def _key(automaton: TagAutomaton, token_bytes: Sequence[bytes], vocab_size: int | None) -> str:
    digest = hashlib.sha256(_FORMAT)
    for table in (automaton.next, automaton.tag, automaton.tag_id):
        digest.update(table.tobytes())
    lengths = np.fromiter(map(len, token_bytes), np.int64, len(token_bytes))
    digest.update(np.array([vocab_size or 0, len(lengths), *lengths], np.int64).tobytes())
    digest.update(b"".join(token_bytes))
    return digest.hexdigest()[:32]


def _write(path: Path, table: TokenAutomaton) -> None:
    """Whole or not at all: another process may read or write the same file. Without a place for it, not at all."""
    try:
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
