"""The cache of lifted automata: the same tables, made once, whatever is done to the file."""

import dataclasses
import os

import numpy as np
import pytest

from asyncthink_jax import copies
from asyncthink_jax.protocol import lifted
from asyncthink_jax.protocol.automaton import lift, tag_automaton

WORDS = [b"<FORK-1>", b"</FORK-1>", b"", *(b" w%d" % n for n in range(lifted._LARGE))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(copies.FOLDER, str(tmp_path / "some" / "cache"))
    return tmp_path / "some" / "cache"


def assert_same(one, other):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
        assert getattr(one, field.name).dtype == getattr(other, field.name).dtype


@pytest.fixture
def counted(monkeypatch):
    """How often an automaton was lifted."""
    calls = []
    monkeypatch.setattr(lifted, "lift", lambda *args: calls.append(1) or lift(*args))
    return calls


def test_a_large_vocabulary_is_lifted_once(folder, counted):
    expected = lift(tag_automaton(2), WORDS)
    assert_same(lifted.lifted(2, WORDS), expected)
    assert_same(lifted.lifted(2, WORDS), expected)
    assert len(counted) == 1 and len(list(folder.iterdir())) == 1


def test_another_vocabulary_pool_or_size_has_a_table_of_its_own(folder, counted):
    other = [b"<FORK-1>", b"</FORK-1> ", b"", b"w0", *WORDS[4:]]  # the same bytes, cut elsewhere
    for arguments in [(2, WORDS), (3, WORDS), (2, other), (2, WORDS, len(WORDS) + 5), (2, WORDS[:-1])]:
        assert_same(lifted.lifted(*arguments), lift(tag_automaton(arguments[0]), *arguments[1:]))
    assert len(counted) == len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("damage", ["empty", "text", "cut off", "a byte is another", "lacks a table"])
def test_a_damaged_file_is_made_again(damage, folder, counted):
    expected = lifted.lifted(2, WORDS)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    if damage == "lacks a table":
        np.savez(path, token_class=expected.token_class)
    else:
        middle = len(whole) // 2
        changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"empty": b"", "text": b"x", "cut off": whole[:middle]}.get(damage, changed))
    assert_same(lifted.lifted(2, WORDS), expected)
    assert len(counted) == 2 and len(list(folder.iterdir())) == 1
    assert_same(lifted.lifted(2, WORDS), expected)
    assert len(counted) == 2


def test_small_vocabularies_leave_no_file(folder):
    lifted.lifted(2, WORDS[:100])
    assert not folder.exists()


def test_without_a_place_to_write_there_is_no_cache(folder, counted):
    folder.parent.write_text("a file where the folder should be")
    assert_same(lifted.lifted(2, WORDS), lifted.lifted(2, WORDS))
    assert len(counted) == 2


def test_a_write_that_fails_leaves_nothing_behind(folder, monkeypatch):
    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    lifted.lifted(2, WORDS)
    assert not list(folder.iterdir())
