"""Slow: constrained decoding over Qwen3's vocabulary masks what the text parser refuses, in small tables."""

import pathlib

import numpy as np
import pytest
from test_constrain import mask_of

from asyncthink_jax.data.tokenizer import wire
from asyncthink_jax.data.tokenizer_files import load_tokenizer
from asyncthink_jax.protocol.automaton import ROOT
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.parser import Parser
from asyncthink_jax.protocol.prompts import TINY
from asyncthink_jax.rollout.constrain import Constraint

QWEN3 = pathlib.Path(__file__).parents[2] / ".models" / "qwen3"
ROWS = 151_936  # of the model's embedding

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not QWEN3.exists(), reason="needs Qwen3's tokenizer: make .models/qwen3/installed"),
]


@pytest.fixture(scope="module")
def constrained():
    grammar, tokenizer = Grammar(4, 12), load_tokenizer(QWEN3)
    of_qwen = wire(tokenizer, TINY, grammar, ROWS)
    return grammar, tokenizer, of_qwen.automaton, Constraint(of_qwen)


@pytest.mark.parametrize(
    ("role", "written"),
    [
        ("organizer", "Let me see. "),
        ("organizer", "<FORK-1>a</FORK-1><FORK-1"),
        ("organizer", "<FORK-12>a</FORK-12><FORK-1>what</"),
        ("organizer", "<FORK-2>a</FORK-2><FORK-3>a</FORK-3><FORK-4>a</FORK-4><"),
        ("organizer", "<ANSWER>42</ANSWER"),
        ("worker", "hm <RETURN>"),
        ("worker", "hm <"),
    ],
)
def test_the_mask_is_what_the_parser_allows(role, written, constrained):
    grammar, tokenizer, automaton, constraint = constrained
    parser, lexer = Parser(role, grammar), ROOT
    parser.feed(written)
    for token in tokenizer.encode(written):
        lexer = int(automaton.next_state[lexer, automaton.token_class[token]])
    (mask,) = mask_of(constraint, grammar, [parser], [lexer])
    assert mask.shape == (ROWS,) and not mask[tokenizer.vocab_size :].any()
    assert (mask[list(tokenizer.stop_ids)] == (role == "worker")).all()
    others = [i for i in tokenizer.controls.values() if i not in tokenizer.stop_ids]
    assert not mask[others].any()
    # All tokens that could matter, and some of the rest.
    marks = [i for i, text in enumerate(tokenizer.vocabulary) if set(text) & set(b"<>/-0123456789")]
    rng = np.random.default_rng(0)
    for i in {*marks, *rng.integers(tokenizer.vocab_size, size=20_000).tolist()} - set(tokenizer.controls.values()):
        assert mask[i] == parser.allows(tokenizer.vocabulary[i].decode("latin-1")), tokenizer.vocabulary[i]


def test_the_tables_are_over_classes_of_tokens(constrained):
    *_, constraint = constrained
    sizes = {name: getattr(constraint, name).nbytes for name in ("token_class", "event", "place", "leads_to")}
    assert sizes["token_class"] == 4 * ROWS and sum(sizes.values()) < 1 << 20
