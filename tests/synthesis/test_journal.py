"""The journal of answers: a line each, a cut one is repaired, a strange one is refused."""

import pytest

from asyncthink_jax.config import ConfigError
from asyncthink_jax.synthesis.journal import Answer, Journal, key_of

ANSWERS = {"a": Answer("ä\n[organizer]", "stop", 3, 4), "b": Answer("", "content_filter", None, None)}


@pytest.fixture
def path(tmp_path):
    """A journal with two answers."""
    path = tmp_path / "answers.jsonl"
    journal = Journal(path)
    journal.open()
    for key, answer in ANSWERS.items():
        journal.add(key, answer)
    journal.close()
    return path


def test_answers_are_read_back(path):
    assert Journal(path).answers == ANSWERS


def test_a_last_line_that_was_cut_is_taken_away_and_written_again(path):
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        journal = Journal(path)
        assert journal.answers == {"a": ANSWERS["a"]}
        journal.open()
        journal.add("b", ANSWERS["b"])
        journal.close()
        assert path.read_bytes() == whole


def test_reading_alone_changes_nothing(path):
    path.write_bytes(path.read_bytes()[:-3])
    before = path.read_bytes()
    Journal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "x"}', '{"question": "a", "more": 1}'])
def test_a_file_that_is_no_journal_is_refused_by_line(path, line):
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=r"answers\.jsonl, line 3: not an answer of an endpoint"):
        Journal(path)


def test_a_journal_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="can't be written: No such file or directory"):
        Journal(tmp_path / "nowhere" / "answers.jsonl").open()


def test_another_word_in_a_question_is_another_question():
    question = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
    assert key_of(question) == key_of({"messages": question["messages"], "model": "gpt-4o"})
    assert key_of(question) != key_of({**question, "model": "gpt-4o-mini"})
    assert key_of(question) != key_of({**question, "messages": [{"role": "user", "content": "y"}]})
