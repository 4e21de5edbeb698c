"""The grammar on plain text: which text is a tag, and what each tag may do where."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncthink_jax.protocol.grammar import FormatError, Grammar, Tag, tag_literal, tag_literals
from asyncthink_jax.protocol.parser import Parser

PIECES = [
    *tag_literals(3),
    "<FORK-0>",
    "</JOIN-01>",
    "<JOIN-99>",
    "<FORK-",
    "</",
    "<",
    "-1>",
    ">",
    "1",
    "0",
    "x",
    " ",
    "é",
]
tagged_text = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def parse(text, role="organizer", capacity=3, max_forks=6):
    parser = Parser(role, Grammar(capacity, max_forks))
    actions = parser.feed(text)
    parser.finish()
    return parser, actions


def error_of(text, role="organizer", capacity=3, max_forks=6):
    return parse(text, role, capacity, max_forks)[0].error.name


def test_a_well_formed_organizer_forks_joins_and_answers():
    parser, actions = parse("think <FORK-1>a b</FORK-1> think <JOIN-1> so <ANSWER>42</ANSWER> ignored <JOIN-9>")
    assert parser.error == FormatError.NONE
    assert [(a.tag, a.id) for a in actions] == [
        (Tag.FORK, 1),
        (Tag.END_FORK, 1),
        (Tag.JOIN, 1),
        (Tag.ANSWER, 0),
        (Tag.END_ANSWER, 0),
    ]
    assert (actions[0].start, actions[0].end) == (6, 14)
    assert parser.done


def test_a_worker_ends_with_its_return():
    parser, actions = parse("thoughts <RETURN>take</RETURN><FORK-1>", role="worker")
    assert [a.tag for a in actions] == [Tag.RETURN, Tag.END_RETURN]
    assert (parser.error, parser.done) == (FormatError.NONE, True)


FORKED = "<FORK-1>a</FORK-1>"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        # Each tag where it is legal, the empty forms included.
        ("<ANSWER></ANSWER>", "NONE"),
        ("<FORK-1></FORK-1><ANSWER></ANSWER>", "NONE"),
        (FORKED + "<FORK-6>b</FORK-6><JOIN-6><JOIN-1><ANSWER>x</ANSWER>", "NONE"),
        (FORKED + "<JOIN-1><FORK-2></FORK-2><FORK-3></FORK-3><ANSWER>x</ANSWER>", "NONE"),
        # An id is used once; the worker is claimed at the opening tag and free at its Join.
        (FORKED + "<JOIN-1><FORK-1>", "FORK_TWICE"),
        (FORKED + "<FORK-1>", "FORK_TWICE"),
        (FORKED + "<FORK-2></FORK-2><FORK-3>", "POOL_FULL"),
        (FORKED + "<FORK-2></FORK-2><FORK-1>", "FORK_TWICE"),
        ("<JOIN-1>", "JOIN_UNKNOWN"),
        (FORKED + "<JOIN-2>", "JOIN_UNKNOWN"),
        (FORKED + "<JOIN-1> and <JOIN-1>", "JOIN_TWICE"),
        # Ids: decimal digits without leading zeros, 1..max_forks.
        ("<FORK-0>", "ID_OUT_OF_RANGE"),
        ("<FORK-7>", "ID_OUT_OF_RANGE"),
        ("<FORK-01>", "ID_OUT_OF_RANGE"),
        ("<JOIN-99>", "ID_OUT_OF_RANGE"),
        ("<FORK-" + "9" * 5000 + ">", "ID_OUT_OF_RANGE"),
        # Inside a Fork or an Answer only its own closer is legal, whatever else would be wrong with the tag.
        ("<FORK-1><FORK-2>", "NESTED_TAG"),
        ("<FORK-1></FORK-2>", "NESTED_TAG"),
        ("<FORK-1></FORK-01>", "NESTED_TAG"),
        ("<FORK-1><RETURN>", "NESTED_TAG"),
        ("<FORK-1><JOIN-1>", "NESTED_TAG"),
        ("<FORK-1><ANSWER>", "NESTED_TAG"),
        ("<FORK-1></ANSWER>", "NESTED_TAG"),
        ("<ANSWER><FORK-99>", "NESTED_TAG"),
        ("<ANSWER><ANSWER>", "NESTED_TAG"),
        ("<ANSWER></FORK-1>", "NESTED_TAG"),
        # Outside: closers are stray before their id is looked at; Return tags are the worker's.
        ("</FORK-1>", "STRAY_TAG"),
        ("</FORK-0>", "STRAY_TAG"),
        (FORKED + "</JOIN-1>", "STRAY_TAG"),
        ("</JOIN-99>", "STRAY_TAG"),
        ("</ANSWER>", "STRAY_TAG"),
        ("<RETURN>", "WRONG_ROLE"),
        ("</RETURN>", "WRONG_ROLE"),
        # An end without an Answer.
        ("", "NO_ANSWER"),
        ("text", "NO_ANSWER"),
        (FORKED + "<JOIN-1>", "NO_ANSWER"),
        ("<ANSWER>42</ANSWER", "NO_ANSWER"),
        # What is not quite a tag is text.
        ("< FORK-1><FORK-><FORK--1><FORK-1 ><fork-1><FORK-1><ANSWER></ANSWER>", "NESTED_TAG"),
        ("<FORK-٣><FORK-1x><JOIN><JOIN-><ANSWER-1></ RETURN>< ANSWER><answer><ANSWER>1</ANSWER>", "NONE"),
        ("<FORK-1<FORK-<<ANSWER>1 < 2</ANSWER<</ANSWER>", "NONE"),
    ],
)
def test_organizer(text, error):
    assert error_of(text) == error


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<RETURN></RETURN>", "NONE"),
        ("", "NONE"),
        ("no return at all", "NONE"),
        ("x<RETURN>y</RETU", "NONE"),
        ("</RETURN>", "STRAY_TAG"),
        ("<FORK-1>", "WRONG_ROLE"),
        ("</FORK-1>", "WRONG_ROLE"),
        ("<FORK-99>", "WRONG_ROLE"),
        ("<JOIN-1>", "WRONG_ROLE"),
        ("</JOIN-1>", "WRONG_ROLE"),
        ("<ANSWER>", "WRONG_ROLE"),
        ("</ANSWER>", "WRONG_ROLE"),
        ("<RETURN><RETURN>", "NESTED_TAG"),
        ("<RETURN>x<ANSWER>", "NESTED_TAG"),
        ("<RETURN></FORK-0>", "NESTED_TAG"),
        ("<RETURN></JOIN-1>", "NESTED_TAG"),
    ],
)
def test_worker(text, error):
    assert error_of(text, role="worker") == error


def test_without_workers_every_fork_is_one_too_many():
    assert error_of("<FORK-1>", capacity=1) == "POOL_FULL"


def test_without_ids_every_id_is_out_of_range():
    assert error_of("<FORK-1>", max_forks=0) == "ID_OUT_OF_RANGE"


def test_two_digit_ids_are_ids():
    assert error_of("<FORK-12></FORK-12><JOIN-12><FORK-1></FORK-1><ANSWER></ANSWER>", max_forks=12) == "NONE"
    assert error_of("<FORK-13>", max_forks=12) == "ID_OUT_OF_RANGE"
    assert error_of("<FORK-01>", max_forks=12) == "ID_OUT_OF_RANGE"


def test_the_offending_tag_is_the_last_action():
    _, actions = parse("ab<JOIN-1><ANSWER>")
    assert [(a.tag, a.start, a.end, a.error) for a in actions] == [(Tag.JOIN, 2, 10, FormatError.JOIN_UNKNOWN)]


def test_a_tag_does_not_continue_across_inserted_text():
    parser = Parser("organizer", Grammar(2, 6))
    parser.feed("<FORK-1>a</FORK-1><JOIN-1><ANS")
    parser.interrupt()
    assert parser.feed("WER>") == []
    assert [a.start for a in parser.feed("<ANSWER>")] == [len("<FORK-1>a</FORK-1><JOIN-1><ANSWER>")]


def test_literals_are_all_the_legal_tags():
    assert len(tag_literals(6)) == len(set(tag_literals(6))) == 4 * 6 + 4
    assert {tag_literal(Tag.END_JOIN, 3), tag_literal(Tag.FORK, 6), tag_literal(Tag.END_RETURN)} <= set(tag_literals(6))
    for literal in tag_literals(6):
        assert Parser("worker", Grammar(2, 6)).feed(literal), literal


@pytest.mark.parametrize("numbers", [{"capacity": 0, "max_forks": 1}, {"capacity": 1, "max_forks": -1}])
def test_a_grammar_that_makes_no_sense_is_refused(numbers):
    with pytest.raises(ValueError, match="must"):
        Grammar(**numbers)


@settings(deadline=None)
@given(tagged_text, st.lists(st.integers(0, 100)), st.sampled_from(["organizer", "worker"]))
def test_how_the_text_is_cut_makes_no_difference(text, cuts, role):
    whole, expected = parse(text, role)
    pieces = Parser(role, Grammar(3, 6))
    bounds = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    actions = [a for start, end in itertools.pairwise(bounds) for a in pieces.feed(text[start:end])]
    assert actions == expected
    assert pieces.finish() == whole.error


@settings(deadline=None)
@given(tagged_text)
def test_actions_lie_in_the_text_where_they_say(text):
    _, actions = parse(text)
    for action in actions:
        literal = text[action.start : action.end]
        assert literal == tag_literal(action.tag, action.id) or (action.id == 0 and literal[-2].isdigit())
