"""What the tests of synthesis share: a model on loopback, and a judge of the task of sums."""

import pytest
from fake_llm import KEY, FakeLLM, SumsWriter
from sums import CONFIG, Sums

from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.synthesis.judge import Judge, reader

POOL = Grammar(capacity=3, max_forks=4)


@pytest.fixture
def llm(monkeypatch):
    """A model on loopback, which the environment names."""
    with FakeLLM(SumsWriter()) as llm:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield llm


@pytest.fixture(scope="session")
def read_by():
    """Tokenizer and prompts of a run of the task."""
    return reader(CONFIG, POOL, None)


@pytest.fixture
def judge(read_by):
    return Judge(Sums(), POOL, CONFIG, *read_by)
