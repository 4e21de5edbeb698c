"""Sudoku's demonstrations through the protocol: well-formed, right, and shorter where they are organized."""

import numpy as np
import pytest

from asyncthink_jax.data import pipeline
from asyncthink_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from asyncthink_jax.protocol.grammar import Grammar, tag_literals
from asyncthink_jax.tasks import Sudoku

SIZES = {"train_problems": 200, "validation_problems": 1, "test_problems": 1}
ROWS = Sudoku(words="rows", forks=12, min_clues=5, **SIZES)
CELLS = Sudoku(forks=12, **SIZES)


@pytest.fixture(scope="module", params=[ROWS, CELLS], ids=["rows", "cells"])
def played(request, tmp_path_factory):
    """Attempts of a number of demonstrations of a kind, for a pool."""
    task = request.param
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    tokenizer, splits = SentencePieceTokenizer.train(task.tokenizer_texts(), tag_literals(12), path), task.splits()

    def play(kind, agents, n):
        rng, grammar = np.random.default_rng(1), Grammar(agents, 12)
        scripts = [task.script(splits, kind, agents, rng) for _ in range(n)]
        return [pipeline.attempt(task, script, tokenizer, grammar) for script in scripts]

    return play


@pytest.mark.parametrize(
    ("kind", "agents"), [(kind, agents) for kind in ("random", "oracle", "sequential") for agents in (1, 2, 4)]
)
def test_demonstrations_are_well_formed_and_right(played, kind, agents):
    for attempt in played(kind, agents, 40):
        episode = attempt.episode
        assert episode.format_error is None and episode.traces[0].end == "answer"
        assert attempt.score == {"accuracy": 1.0, "correct": 1, "answered": 1, "wrong": 0}
        assert all(trace.end == "return" for trace in episode.traces[1:])


def test_grids_of_row_words_are_four_tokens(tmp_path):
    tokenizer = SentencePieceTokenizer.train(ROWS.tokenizer_texts(), tag_literals(12), tmp_path / "tokenizer.model")
    assert len(tokenizer.encode(" 1..4 .... .3.. ..2. r2")) == 5
    assert len(tokenizer.encode(" c1 col 1 box left 2 3 4")) == 8


@pytest.mark.parametrize("played", [ROWS], ids=["rows"], indirect=True)
def test_organized_demonstrations_have_a_shorter_critical_path_than_one_trace(played):
    paths = {
        kind: np.mean([one.episode.critical_path for one in played(kind, 4, 60)]) for kind in ("oracle", "sequential")
    }
    assert paths["oracle"] < 0.75 * paths["sequential"]
