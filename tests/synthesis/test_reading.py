"""Answers of a model, read: good ones give pieces, bad ones a reason."""

import contextlib

import pytest

from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.synthesis.reading import Dropped, read_fragments, read_traces, sections, without_reasoning

POOL = Grammar(capacity=3, max_forks=4)
WORKERS = "[worker 1]\nI add: 3 + 4 = 7. <RETURN>It is 7.</RETURN>\n\n[worker 2]\n<RETURN>9</RETURN>\n\n"
ORGANIZER = (
    "[organizer]\nI begin. <FORK-1>3 + 4?</FORK-1> <FORK-2> 2 + 7</FORK-2>\n\n<JOIN-2>9</JOIN-2>\nSo 9, and\nmore. "
    "<JOIN-1>It is 7.</JOIN-1> <ANSWER>7 and 9</ANSWER>"
)


def test_the_pieces_are_tags_and_stretches_of_words_without_what_joins_insert():
    traces = read_traces(WORKERS + ORGANIZER, POOL)
    assert traces.organizer == (
        *("I begin.", "<FORK-1>", "3 + 4?", "</FORK-1>", "<FORK-2>", " 2 + 7", "</FORK-2>", "<JOIN-2>"),
        *(" So 9, and\nmore.", "<JOIN-1>", "<ANSWER>", "7 and 9", "</ANSWER>"),
    )
    assert [traces.organizer[place] for place in sorted(traces.work)] == ["I begin.", " So 9, and\nmore.", "7 and 9"]
    assert traces.workers == {1: "I add: 3 + 4 = 7.<RETURN>It is 7.</RETURN>", 2: "<RETURN>9</RETURN>"}
    assert traces.returns == {1: "It is 7.", 2: "9"}


def test_a_join_may_stand_without_what_it_inserts():
    bare = ORGANIZER.replace("<JOIN-1>It is 7.</JOIN-1>", "<JOIN-1>")
    assert read_traces(WORKERS + bare, POOL) == read_traces(WORKERS + ORGANIZER, POOL)


def test_joined_text_may_be_set_differently_but_not_be_another_one():
    other_layout = ORGANIZER.replace("<JOIN-1>It is 7.</JOIN-1>", "<JOIN-1>\n  It is\n7. </JOIN-1>")
    assert read_traces(WORKERS + other_layout, POOL) == read_traces(WORKERS + ORGANIZER, POOL)
    with pytest.raises(Dropped, match="joined_text: what <JOIN-1> inserts is not what the worker returned"):
        read_traces(WORKERS + ORGANIZER.replace("<JOIN-1>It is 7.", "<JOIN-1>It is 8."), POOL)


def test_workers_come_in_the_order_of_their_forks():
    text = WORKERS + "[organizer]\n<FORK-2>b</FORK-2><FORK-1>a</FORK-1><JOIN-1><JOIN-2><ANSWER>c</ANSWER>"
    assert list(read_traces(text, POOL).workers) == [2, 1]


def test_what_is_written_after_the_end_of_a_trace_is_left_out():
    assert read_traces(WORKERS + ORGANIZER + " I hope this helps! <FORK-9>", POOL) == read_traces(
        WORKERS + ORGANIZER, POOL
    )


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("[organizer]", "The organizer:", "unreadable"),
        ("[worker 2]", "[worker 1]", "unreadable"),
        ("<RETURN>9</RETURN>", "It is 9.", "no_return"),
        ("<RETURN>9</RETURN>", "<RETURN>9", "no_return"),
        ("<RETURN>9</RETURN>", "<RETURN>9<JOIN-1></RETURN>", "nested_tag"),
        ("<RETURN>9</RETURN>", "<FORK-3>", "wrong_role"),
        ("<FORK-2> 2 + 7</FORK-2>", "<FORK-1>again</FORK-1>", "fork_twice"),
        ("<FORK-2> 2 + 7</FORK-2>", "<FORK-2> 2 + 7</FORK-2><FORK-3>c</FORK-3>", "pool_full"),
        ("I begin.", "<JOIN-3>", "join_unknown"),
        ("So 9", "<JOIN-2>9</JOIN-2> So 9", "join_twice"),
        ("3 + 4?</FORK-1>", "3 + 4?", "nested_tag"),
        ("I begin.", "</FORK-1>", "stray_tag"),
        ("I begin.", "<RETURN>", "wrong_role"),
        ("I begin.", "<FORK-5>a</FORK-5>", "id_out_of_range"),
        ("<ANSWER>7 and 9</ANSWER>", "It is 7 and 9.", "no_answer"),
        ("<ANSWER>7 and 9</ANSWER>", "<ANSWER>7 and 9", "no_answer"),
        ("[worker 2]\n<RETURN>9</RETURN>\n\n", "", "missing_worker"),
        ("[worker 2]", "[worker 3]\n<RETURN>4</RETURN>\n\n[worker 2]", "unforked_worker"),
        ("<FORK-2> 2 + 7<", "<FORK-2> \n<", "empty_sub_query"),
    ],
)
def test_what_is_malformed_is_dropped_with_its_reason(before, after, reason):
    text = WORKERS + ORGANIZER
    assert before in text
    with pytest.raises(Dropped) as dropped:
        read_traces(text.replace(before, after), POOL)
    assert dropped.value.reason == reason


def test_a_reason_says_where_the_trace_went_wrong():
    with pytest.raises(Dropped, match=r"organizer, at 'I begin. <FORK-1>3 \+ 4\? <FORK-2>', <FORK-1> is never closed"):
        read_traces((WORKERS + ORGANIZER).replace("</FORK-1>", ""), POOL)


def test_headings_may_be_dressed_up_and_the_whole_may_stand_in_a_fence():
    assert sections("Sure!\n\n## **[Thinking]**\na\n[fragments]:\n1. b") == {"thinking": "a", "fragments": "1. b"}
    assert sections("```\n[worker 1]\n<RETURN>x</RETURN>\n```") == {"worker 1": "<RETURN>x</RETURN>"}
    assert sections("see [organizer] below") == {}


def test_lines_may_end_as_on_windows_and_the_text_may_begin_with_a_mark_of_byte_order():
    text = "\ufeff[thinking]\nIt falls apart.\n\n[fragments]\n1. one\n2. two"
    assert sections(text.replace("\n", "\r\n")) == {"thinking": "It falls apart.", "fragments": "1. one\n2. two"}


def test_fragments_are_the_items_of_a_list():
    text = "[thinking]\n1. no\n\n[fragments]\n1. What is 3 + 4?\n  2) What is\n     2 + 7?\n\n- And this?"
    assert read_fragments(text) == ["What is 3 + 4?", "What is 2 + 7?", "And this?"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[fragments]\nnone", "no_fragments"), ("1. a", "unreadable"), ("[fragments]\n1. \n", "no_fragments")],
)
def test_an_answer_without_fragments_is_dropped(text, reason):
    with pytest.raises(Dropped) as dropped:
        read_fragments(text)
    assert dropped.value.reason == reason


@pytest.mark.parametrize(
    "before",
    [
        "<think>\nI write\n[fragments]\n1. no\n</think>\n\n",
        "I write\n[fragments]\n1. no\n</think>\n",
        "\n <THINKING>no</THINKING> <thinking>\n[thinking]\nno\n</thinking>",
        "<reasoning>no</reasoning>\n",
        "<thought>a <think> in it</thought>\n",
        "<seed:think>no</seed:think>",
        "[THINK]no[/THINK]",
    ],
)
def test_reasoning_before_the_answer_is_no_part_of_it(before):
    assert read_fragments(before + "[thinking]\nyes\n[fragments]\n1. yes") == ["yes"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>", ""),
        ("<think>no end\n[fragments]\n1. a", ""),
        ("<think>a</think><think>b", ""),
        ("", ""),
        ("[organizer]\nI <think> so", "[organizer]\nI <think> so"),
        ("[organizer]\n<think>a</think> b", "[organizer]\n<think>a</think> b"),
        ("[thinking]\na", "[thinking]\na"),
        ("I think: 3 < 4", "I think: 3 < 4"),
    ],
)
def test_reasoning_without_an_end_leaves_nothing_and_what_stands_in_the_answer_stays(text, left):
    assert without_reasoning(text) == left


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Here:\n\n```\n[thinking]\na\n[fragments]\n1. b\n2. c\n```\n\nShall I go on?", ["b", "c"]),
        ("~~~text\n[fragments]\n1. b\n2. c\n~~~\nBye", ["b", "c"]),
        ("````\n[fragments]\n1. b\n2. c\n````", ["b", "c"]),
        ("```\n[thinking]\na\n```\nand\n```\n[fragments]\n1. b\n2. c\n```\nBye", ["b", "c"]),
        ("[thinking]\na\n[fragments]\n```\n1. b\n2. c\n```\nBye", ["b", "c"]),
        ("```\n[fragments]\n1. b\n```python\nx = 1\n```\n2. c\n```\nBye", ["b"]),
        ("[fragments]\n1. b\n2. c\n\nTell me if you want another form.", ["b", "c"]),
        ("[fragments]\n1. b\n2. c\n---\nMore?", ["b", "c"]),
        ("[fragments]\n1. b\n2. c\n* * *", ["b", "c"]),
        ("[fragments]\n1. b\n2. c\n<|im_end|>", ["b", "c"]),
        ("[ fragments ]\n(1) b\n(2) c", ["b", "c"]),
        ("[fragments]\n\N{BULLET} b\n\N{BULLET} c", ["b", "c"]),
        ("[fragments]\n**1.** b\n**2.** c", ["b", "c"]),
        ("[fragments]\n1: b\n2: c", ["b", "c"]),
        ("[fragments]\n1. b\n\n   more\n\nNow:\n2. c", ["b more", "c"]),
    ],
)
def test_what_stands_around_a_fence_or_behind_a_list_is_no_fragment(text, found):
    assert read_fragments(text) == found


def test_traces_in_a_fence_end_with_it_and_may_hold_another():
    text = WORKERS.replace("I add:", "I add:\n```python\n3 + 4\n```\n") + ORGANIZER
    plain, fenced = read_traces(text, POOL), read_traces(f"Sure:\n```\n{text}\n```\n<FORK-9> is my favourite", POOL)
    assert plain == fenced and "```python\n3 + 4\n```" in plain.workers[1]


def test_very_many_fragments_are_no_answer():
    with pytest.raises(Dropped, match="unreadable: 101 fragments; at most 100 are asked about"):
        read_fragments("[fragments]\n" + "1. a\n" * 101)


@pytest.mark.parametrize(
    "text",
    [
        "</think>" * 50_000,
        "<think>" * 50_000,
        "```\n" * 50_000 + "[organizer]\n" + "```a\n" * 50_000,
        "[organizer]\n" + "<JOIN-1>" * 100_000,
        "[organizer]\n" + "<JOIN-1>" * 50_000 + "</JOIN-2>" * 50_000,
        "[organizer]\n" + " " * 1_000_000 + "x",
        "[fragments]\n1. a\n" + "b\n" * 200_000 + "2." + " " * 200_000,
    ],
)
def test_hostile_answers_are_read_in_linear_time(text):
    """The quadratic ways to read these take hours."""
    for read in (read_fragments, lambda text: read_traces(text, POOL)):
        with contextlib.suppress(Dropped):
            read(text)
