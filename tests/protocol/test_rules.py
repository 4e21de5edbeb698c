"""The table of what is legal: it decides every case, and no line of it is idle."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from asyncthink_jax.protocol.grammar import FormatError, Grammar, Tag, tag_literal
from asyncthink_jax.protocol.parser import Parser
from asyncthink_jax.protocol.rules import ROLES, RULES, VERDICT, IdState, Inside, decision_table, id_state

REACHED = {"organizer": (Inside.TEXT, Inside.FORK, Inside.ANSWER), "worker": (Inside.TEXT, Inside.RETURN)}


def fits(rule, role, inside, tag, state):
    return (
        ROLES[rule.role] == role
        and inside in rule.inside
        and (not rule.tags or tag in rule.tags)
        and (not rule.ids or state in rule.ids)
    )


def test_every_case_has_a_verdict_and_every_line_decides_one():
    deciding = set()
    for role in ROLES:
        for inside, tag, state in itertools.product(REACHED[role], [tag for tag in Tag if tag], IdState):
            first = next(n for n, rule in enumerate(RULES) if fits(rule, role, inside, tag, state))
            deciding.add(first)
            assert VERDICT[ROLES.index(role), inside, tag, state] == RULES[first].verdict
    assert deciding == set(range(len(RULES)))


def test_text_is_always_legal():
    assert not VERDICT[:, :, Tag.NONE].any()


# What has been written, the tag that comes next, and what the paper's protocol makes of it.
CASES = [
    ("organizer", "", "<FORK-1>", "NONE"),
    ("organizer", "<FORK-1></FORK-1>", "<FORK-1>", "FORK_TWICE"),
    ("organizer", "<FORK-1></FORK-1><JOIN-1>", "<FORK-1>", "FORK_TWICE"),
    ("organizer", "<FORK-1></FORK-1><FORK-2></FORK-2>", "<FORK-3>", "POOL_FULL"),
    ("organizer", "<FORK-1></FORK-1><FORK-2></FORK-2><JOIN-1>", "<FORK-3>", "NONE"),
    ("organizer", "", "<FORK-4>", "ID_OUT_OF_RANGE"),
    ("organizer", "", "<JOIN-0>", "ID_OUT_OF_RANGE"),
    ("organizer", "", "<JOIN-1>", "JOIN_UNKNOWN"),
    ("organizer", "<FORK-1></FORK-1><FORK-2></FORK-2>", "<JOIN-3>", "JOIN_UNKNOWN"),
    ("organizer", "<FORK-1></FORK-1>", "<JOIN-1>", "NONE"),
    ("organizer", "<FORK-1></FORK-1><JOIN-1>", "<JOIN-1>", "JOIN_TWICE"),
    ("organizer", "<FORK-1>", "</FORK-1>", "NONE"),
    ("organizer", "<FORK-1>", "</FORK-2>", "NESTED_TAG"),
    ("organizer", "<FORK-1>", "<JOIN-1>", "NESTED_TAG"),
    ("organizer", "<FORK-1>", "<RETURN>", "NESTED_TAG"),
    ("organizer", "<ANSWER>", "</ANSWER>", "NONE"),
    ("organizer", "<ANSWER>", "<ANSWER>", "NESTED_TAG"),
    ("organizer", "", "</FORK-1>", "STRAY_TAG"),
    ("organizer", "<FORK-1></FORK-1><JOIN-1>", "</JOIN-1>", "STRAY_TAG"),
    ("organizer", "", "</ANSWER>", "STRAY_TAG"),
    ("organizer", "", "<RETURN>", "WRONG_ROLE"),
    ("organizer", "", "</RETURN>", "WRONG_ROLE"),
    ("worker", "", "<RETURN>", "NONE"),
    ("worker", "<RETURN>", "</RETURN>", "NONE"),
    ("worker", "<RETURN>", "<ANSWER>", "NESTED_TAG"),
    ("worker", "", "</RETURN>", "STRAY_TAG"),
    ("worker", "", "<FORK-1>", "WRONG_ROLE"),
    ("worker", "", "<JOIN-9>", "WRONG_ROLE"),
    ("worker", "", "<ANSWER>", "WRONG_ROLE"),
]


@pytest.mark.parametrize(("role", "before", "tag", "verdict"), CASES)
def test_the_parser_gives_the_verdict(role, before, tag, verdict):
    parser = Parser(role, Grammar(capacity=3, max_forks=3))
    assert not any(action.error for action in parser.feed(before))
    assert [action.error.name for action in parser.feed(tag)] == [verdict]


def test_the_cases_above_are_of_every_tag_and_error():
    written = "".join(tag for _, _, tag, _ in CASES)
    assert all(tag_literal(tag, 1)[:5] in written for tag in Tag if tag)
    assert {verdict for *_, verdict in CASES} == {error.name for error in FormatError} - {"NO_ANSWER"}


def test_states_of_ids_are_those_of_arrays_too():
    flags = np.array(list(itertools.product([False, True], repeat=5))).T
    states = id_state(np, *flags)
    for n, (in_range, is_open, used, joined, has_room) in enumerate(flags.T):
        expected = IdState.OUT_OF_RANGE
        if in_range and not used:
            expected = IdState.FREE if has_room else IdState.POOL_FULL
        elif in_range:
            expected = IdState.JOINED if joined else IdState.OPEN if is_open else IdState.ACTIVE
        assert states[n] == expected


def test_the_docs_show_the_table():
    page = Path(__file__).resolve().parents[2] / "docs" / "method.md"
    assert decision_table() in page.read_text(encoding="utf-8")
