"""Tokens and money: an estimate before anything is asked, and a count of what was answered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from asyncthink_jax.synthesis.journal import Answer

# The endpoint's tokenizer isn't here. English has 4 to 4.5 characters a token with those in use, formulas have fewer.
CHARACTERS_PER_TOKEN = 4
MESSAGE_TOKENS = 4  # that a chat adds to each message

# USD a million tokens, (in, out), as listed by OpenAI in 2025. They change: --prices says what holds today.
LISTED = {
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
}


class Prices(NamedTuple):
    """USD a million tokens."""

    input: float
    output: float


class Tokens(NamedTuple):
    """Tokens read and written by the endpoint's model."""

    input: int
    output: int

    def usd(self, prices: Prices) -> float:
        return (self.input * prices.input + self.output * prices.output) / 1e6

    def to_text(self, prices: Prices | None) -> str:
        text = f"{self.input:,} tokens in, {self.output:,} out"
        return text if prices is None else f"{text}, {self.usd(prices):,.2f} USD"


def listed_prices(model: str) -> Prices | None:
    """The listed prices of a model, also by its name with a date; None if they are not known here."""
    name = re.sub(r"-20\d\d-\d\d-\d\d$", "", model)
    return Prices(*LISTED[name]) if name in LISTED else None


def estimated_tokens(texts: Iterable[str]) -> int:
    """Of the messages of a question, or of one answer."""
    return sum(-(-len(text) // CHARACTERS_PER_TOKEN) + MESSAGE_TOKENS for text in texts)


def counted(answers: Iterable[Answer]) -> Tokens:
    """As the endpoint counted them; an answer without a count adds nothing."""
    found = list(answers)
    return Tokens(sum(one.input_tokens or 0 for one in found), sum(one.output_tokens or 0 for one in found))


def mean_output(answers: Sequence[Answer], examples: Sequence[str]) -> int:
    """Tokens that an answer will have: the mean of those that are there, else of the examples shown, else 500."""
    known = [one.output_tokens for one in answers if one.output_tokens is not None]
    if not known:
        known = [estimated_tokens([text]) for text in examples] or [500]
    return round(sum(known) / len(known))
