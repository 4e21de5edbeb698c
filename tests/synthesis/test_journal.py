"""The journal of answers: a line each, a cut one is repaired, a strange one is refused."""

import pytest
from full_disk import files_of_at_most

from asyncthink_jax.config import ConfigError
from asyncthink_jax.synthesis.journal import LIMIT, Answer, Journal, key_of

QUESTIONS = ({"model": "m", "messages": ["a"], LIMIT: 9}, {"model": "m", "messages": ["b"]})
ANSWERS = (Answer("ä\n[organizer]", "stop", 3, 4, 9), Answer("", "content_filter", None, None))


@pytest.fixture
def path(tmp_path):
    """A journal with two answers."""
    path = tmp_path / "answers.jsonl"
    journal = Journal(path)
    journal.open()
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        journal.add(question, answer)
    journal.close()
    return path


def test_answers_are_read_back(path):
    assert [Journal(path).find(question) for question in QUESTIONS] == list(ANSWERS)


def test_a_last_line_that_was_cut_is_taken_away_and_written_again(path):
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole) - 1):
        path.write_bytes(whole[:end])
        journal = Journal(path)
        assert [journal.find(question) for question in QUESTIONS] == [ANSWERS[0], None]
        journal.open()
        journal.add(QUESTIONS[1], ANSWERS[1])
        journal.close()
        assert path.read_bytes() == whole


def test_reading_alone_changes_nothing(path):
    path.write_bytes(path.read_bytes()[:-3])
    before = path.read_bytes()
    Journal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "x"}', '{"question": "a", "more": 1}', "my notes"])
def test_a_file_that_is_no_journal_is_refused_by_line(path, line):
    whole = path.read_bytes()
    cut = line == "{" or line.startswith('{"question": ')  # as a record that was cut short, where nothing follows
    for end in ("\n",) if cut else ("\n", ""):
        path.write_bytes(whole + f"{line}{end}".encode())
        with pytest.raises(ConfigError, match=r"answers\.jsonl, line 3: not an answer of an endpoint"):
            Journal(path)
    path.write_bytes(whole + b'{"ques\0\0')
    Journal(path)


def test_a_journal_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="can't be written: No such file or directory"):
        Journal(tmp_path / "nowhere" / "answers.jsonl").open()


def test_another_word_in_a_question_is_another_question():
    question = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
    assert key_of(question) == key_of({"messages": question["messages"], "model": "gpt-4o"})
    assert key_of(question) != key_of({**question, "model": "gpt-4o-mini"})
    assert key_of(question) != key_of({**question, "messages": [{"role": "user", "content": "y"}]})


def test_with_a_higher_limit_those_alone_are_asked_again_that_were_cut_off(tmp_path):
    journal = Journal(tmp_path / "answers.jsonl")
    journal.open()
    whole, cut = ({"messages": [text], LIMIT: 10} for text in ("whole", "cut"))
    journal.add(whole, Answer("all of it", "stop", None, None))
    journal.add(cut, Answer("a part", "length", None, None))

    def finds(limit):
        return [
            found and found.text for found in (journal.find(question | {LIMIT: limit}) for question in (whole, cut))
        ]

    assert finds(9) == finds(10) == ["all of it", "a part"]
    assert finds(11) == ["all of it", None]
    journal.add(cut | {LIMIT: 20}, Answer("all of it, too", "stop", None, None))
    journal.close()
    journal = Journal(journal.path)
    assert finds(10) == finds(30) == ["all of it", "all of it, too"]


def test_an_answer_without_its_line_break_is_not_paid_for_twice(path):
    path.write_bytes(path.read_bytes()[:-1])
    journal = Journal(path)
    assert [journal.find(question) for question in QUESTIONS] == list(ANSWERS)
    journal.open()
    journal.add({"model": "m", "n": 3}, ANSWERS[0])
    journal.close()
    assert path.read_bytes().count(b"\n") == 3 and len(Journal(path).answers) == 3


def test_a_full_disk_takes_an_answer_whole_or_not_at_all(path):
    before = path.read_bytes()
    journal = Journal(path)
    journal.open()
    third = {"model": "m", "n": 3}
    with files_of_at_most(len(before) + 10), pytest.raises(OSError) as told:
        journal.add(third, ANSWERS[0])
    assert str(told.value.filename) == str(path) and path.read_bytes() == before and journal.find(third) is None
    journal.add(third, ANSWERS[1])
    journal.close()
    assert Journal(path).find(third) is not None and path.read_bytes().startswith(before)


def test_of_a_line_with_a_torn_record_and_a_whole_one_the_whole_one_is_read(path, capsys):
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first[:40] + second + b"\n" + first[:50] + b"\n")
    journal = Journal(path)
    assert [journal.find(question) for question in QUESTIONS] == [None, ANSWERS[1]]
    assert capsys.readouterr().err.count("\n") == 1  # of the last line, which nothing follows
