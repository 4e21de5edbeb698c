"""The automaton says of bytes and tokens what a plain search for the literals says of text."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asyncthink_jax.protocol.automaton import ROOT, lift, tag_automaton
from asyncthink_jax.protocol.grammar import Grammar, Tag, tag_literals
from asyncthink_jax.protocol.parser import Parser

AUTOMATA = {n: tag_automaton(n) for n in (0, 1, 6, 12, 123)}
IN_TAG = lift(AUTOMATA[12], [b"x"]).in_tag
PIECES = [s.encode() for s in tag_literals(12)] + [
    *(b"<FORK-0>", b"<JOIN-01>", b"</FORK-007>", b"<JOIN-13>", b"</JOIN-124>", b"<FORK-1234567890123>"),
    *(b"<", b"<<", b"</", b"<FORK-", b"</JOIN-1", b"-", b">", b"><", b"0", b"12", b"ANSWER>", b"RETURN", b"/", b"x"),
    *(b" hello", b"\xe2\x96\x81", b"\xff"),
]
tagged_bytes = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=10).map(b"".join)


def tags_in(data, max_forks):
    """All tags of some bytes as (start, end, tag, id), by trying every literal and every run of digits everywhere."""
    found = []
    for start in range(len(data)):
        for tag in list(Tag)[1:]:
            slash, name = (b"", tag.name) if tag % 2 else (b"/", Tag(tag - 1).name)
            head = b"<" + slash + name.encode()
            if not data.startswith(head, start):
                continue
            end = start + len(head)
            if name in ("FORK", "JOIN"):
                if data[end : end + 1] != b"-":
                    continue
                first = end = end + 1
                while data[end : end + 1].isdigit():
                    end += 1
                digits = data[first:end].decode()
                if not digits:
                    continue
                tag_id = int(digits) if digits == str(int(digits)) and 1 <= int(digits) <= max_forks else 0
            else:
                tag_id = 0
            if data[end : end + 1] == b">":
                found.append((start, end + 1, tag, tag_id))
    return found


@settings(deadline=None)
@given(tagged_bytes, st.sampled_from(sorted(AUTOMATA)))
def test_the_automaton_finds_the_tags_of_any_bytes(data, max_forks):
    automaton, state, found = AUTOMATA[max_forks], ROOT, []
    for i, byte in enumerate(data):
        if automaton.tag[state, byte]:
            found.append((i + 1, automaton.tag[state, byte], automaton.tag_id[state, byte]))
        state = automaton.next[state, byte]
    assert found == [(end, tag, tag_id) for _, end, tag, tag_id in tags_in(data, max_forks)]


@settings(deadline=None)
@given(tagged_bytes, st.sampled_from(["organizer", "worker"]))
def test_the_parser_finds_the_same_tags(data, role):
    parser = Parser(role, Grammar(3, 12))
    actions = parser.feed(data.decode("latin-1"))
    tags = tags_in(data, 12)
    assert [(a.start, a.end, a.tag, a.id) for a in actions] == tags[: len(actions)]
    assert parser.done or len(actions) == len(tags)


@settings(deadline=None)
@given(tagged_bytes, st.lists(st.integers(0, 120)), st.sampled_from([1, 12]))
def test_the_lifted_automaton_finds_the_tags_of_any_tokenization(data, cuts, max_forks):
    bounds = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    pieces = list(itertools.pairwise(bounds))
    vocabulary = sorted({data[a:b] for a, b in pieces} | {b"", b"<", b" plain"})
    try:
        table = lift(AUTOMATA[max_forks], vocabulary)
    except ValueError:
        assume(False)
    expected = tags_in(data, max_forks)
    state, begun, found, first = ROOT, None, [], {}
    for i, (a, b) in enumerate(pieces):
        k = table.token_class[vocabulary.index(data[a:b])]
        begun = i if table.begins[state, k] else begun
        if table.tag[state, k]:
            found.append((i, begun, table.tag[state, k], table.tag_id[state, k]))
            begun = i
        first.update(dict.fromkeys(range(a, b), i))
        state = table.next_state[state, k]
    assert found == [(first[end - 1], first[start], tag, tag_id) for start, end, tag, tag_id in expected]


@settings(deadline=None)
@given(tagged_bytes)
def test_a_tag_is_in_progress_outside_the_root_only(data):
    automaton, state = AUTOMATA[12], ROOT
    for byte in data:
        state = automaton.next[state, byte]
    # In progress: the end of the data, from its last "<" on, and the end of some literal make one tag.
    tail = data[data.rfind(b"<") :] if b"<" in data else b""
    endings = {literal.encode()[n:] for literal in tag_literals(1) for n in range(1, len(literal))}
    possible = any((0, len(tail + e)) == tag[:2] for e in endings if tail for tag in tags_in(tail + e, 12))
    assert (state != ROOT) == possible
    assert IN_TAG[state] == possible


def test_tokens_that_act_alike_share_a_class():
    words = [b" hello", b" 13", b"Kangaroo", b"x>", b"a", b"\xe2\x96", b"FORKS"]
    table = lift(AUTOMATA[6], [*words, b"", b"<FORK-1>", b"<FORK-2>", b"x<FORK-1>", b"</FORK-1>"])
    plain, others = table.token_class[: len(words)], table.token_class[len(words) :]
    assert set(plain) == {0}
    empty, fork_1, fork_2, after_x, closer = others
    assert fork_1 == after_x and len({0, empty, fork_1, fork_2, closer}) == 5
    assert not table.next_state[:, 0].any() and not table.tag[:, 0].any() and not table.begins[:, 0].any()


def test_control_tokens_leave_every_state_as_it_is():
    table = lift(AUTOMATA[6], [b""])
    np.testing.assert_array_equal(table.next_state[:, table.token_class[0]], np.arange(len(table.in_tag)))


@pytest.mark.parametrize("token", [b"<FORK-1></FORK-1>", b"></FORK-2>", b"></ANSWER> x <"])
def test_a_token_that_could_complete_two_tags_is_refused(token):
    with pytest.raises(ValueError, match="two tags"):
        lift(AUTOMATA[6], [b"x", token])


def test_a_token_may_complete_one_tag_and_start_the_next():
    table = lift(AUTOMATA[6], [b"<ANSWER", b"><", b"/ANSWER>"])
    opener, middle, closer = table.token_class
    state = table.next_state[ROOT, opener]
    assert table.tag[state, middle] == Tag.ANSWER and not table.begins[state, middle]
    state = table.next_state[state, middle]
    assert table.in_tag[state] and table.tag[state, closer] == Tag.END_ANSWER


def test_a_vocabulary_of_151936_tokens_makes_small_tables():
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -/.,", np.uint8)
    text = rng.choice(letters, 1_100_000).tobytes()
    ends = np.cumsum(rng.integers(1, 12, 151_680)).tolist()
    vocabulary = [text[start:end] for start, end in itertools.pairwise([0, *ends])]
    vocabulary += [bytes([b]) for b in range(256)]
    table = lift(AUTOMATA[6], vocabulary)
    assert table.token_class.shape == (151_936,) and table.next_state.shape[1] < 128
    assert np.mean(table.token_class == 0) > 0.9
    assert all(a.dtype == np.int32 for a in (table.token_class, table.next_state, table.tag, table.tag_id))


def test_spare_rows_of_a_model_act_as_control_tokens():
    table = lift(AUTOMATA[6], [b"x", b"", b"<FORK-1>"], vocab_size=5)
    assert table.token_class.tolist()[3:] == [table.token_class[1]] * 2
    with pytest.raises(ValueError, match="3 tokens, the model rows for 2 only"):
        lift(AUTOMATA[6], [b"x", b"", b"<FORK-1>"], vocab_size=2)
