"""The tokenizer: one token a word and a tag, and text comes back as it went in."""

import numpy as np
import pytest

from asyncthink_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from asyncthink_jax.protocol.grammar import tag_literals
from asyncthink_jax.tasks import Countdown
from asyncthink_jax.tasks.countdown_scripts import random_demonstration

WORDS = [f" {n}" for n in range(1, 100)] + [f" {word}" for word in [*"+-*/()=:!,", "none", "#0", "#4"]]


@pytest.mark.parametrize("word", [*WORDS, "solve", "work", *tag_literals(6)])
def test_every_word_and_tag_is_one_token(tokenizer, word):
    assert tokenizer.encode(word) == [tokenizer.piece_to_id(word)]


def scripts(splits, n):
    rng = np.random.default_rng(0)
    return [random_demonstration(problem, Countdown().search, rng) for problem in splits["train_few"][:n]]


def test_task_texts_come_back_and_have_one_token_a_word(tokenizer, splits):
    for script in scripts(splits, 100):
        for text in ("".join(script.organizer), *script.workers.values(), f"solve {script.problem.query} :"):
            tokens = tokenizer.encode(text)
            assert tokenizer.decode(tokens) == text
            assert len(tokens) == text.count(" ") + text.count("<") + text.count("solve")


def test_encoding_pieces_is_encoding_the_whole(tokenizer, splits):
    for script in scripts(splits, 100):
        pieces = [token for piece in script.organizer for token in tokenizer.encode_piece(piece)]
        assert pieces == tokenizer.encode("".join(script.organizer))


def test_words_that_are_not_one_token_each_are_lacking(tokenizer):
    assert tokenizer.lacks(Countdown(numbers=3).tokenizer_texts()) == []
    assert tokenizer.lacks([" 7 112 7", "solve x"]) == [" 112", " x"]


def test_spaces_are_kept(tokenizer):
    for text in (" 5", "5", "  5 ", " ", "5  5", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_token_bytes_spell_the_text_and_control_tokens_nothing(tokenizer):
    assert tokenizer.token_bytes(tokenizer.piece_to_id(" 13")) == b" 13"
    assert tokenizer.token_bytes(tokenizer.piece_to_id("</FORK-3>")) == b"</FORK-3>"
    assert [tokenizer.token_bytes(i) for i in (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id)] == [b"", b"", b""]
    assert tokenizer.decode(tokenizer.encode("é")) == "\u2047"


def test_the_same_texts_give_the_same_model_and_it_loads(tokenizer, tmp_path):
    again = SentencePieceTokenizer.train(Countdown().tokenizer_texts(), tag_literals(6), tmp_path / "new" / "t.model")
    loaded = SentencePieceTokenizer.load(tmp_path / "new" / "t.model")
    assert again.model.serialized_model_proto() == tokenizer.model.serialized_model_proto()
    assert loaded.vocab_size == tokenizer.vocab_size < 200
    assert loaded.encode(" 5 + 8<ANSWER>") == tokenizer.encode(" 5 + 8<ANSWER>")


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "t.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"t\.model: not a SentencePiece model"):
        SentencePieceTokenizer.load(tmp_path / "t.model")
    with pytest.raises(FileNotFoundError):
        SentencePieceTokenizer.load(tmp_path / "missing.model")


def test_an_unknown_piece_is_named(tokenizer):
    with pytest.raises(KeyError, match="no token ' 100'"):
        tokenizer.piece_to_id(" 100")
