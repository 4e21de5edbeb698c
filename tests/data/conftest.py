import pytest

from asyncthink_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from asyncthink_jax.protocol.grammar import tag_literals
from asyncthink_jax.tasks import Countdown


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer.train(Countdown().tokenizer_texts(), tag_literals(6), path)


@pytest.fixture(scope="session")
def splits():
    return Countdown().splits()
