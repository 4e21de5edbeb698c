"""Tokens and money before and after."""

import pytest

from asyncthink_jax.synthesis.journal import Answer
from asyncthink_jax.synthesis.token_costs import Prices, Tokens, counted, estimated_tokens, listed_prices, mean_output


def test_money_is_tokens_times_prices_by_the_million():
    assert Tokens(2_000_000, 500_000).usd(Prices(2.5, 10)) == pytest.approx(10)
    assert Tokens(2_000_000, 500_000).to_text(Prices(2.5, 10)) == "2,000,000 tokens in, 500,000 out, 10.00 USD"
    assert Tokens(2_000, 500).to_text(None) == "2,000 tokens in, 500 out"


def test_a_model_has_its_listed_price_under_its_name_with_a_date_too():
    assert listed_prices("gpt-4o-2024-08-06") == listed_prices("gpt-4o") == Prices(2.5, 10)
    assert listed_prices("gpt-4o-mini") != listed_prices("gpt-4o")
    assert listed_prices("my-model") is None


def test_a_text_is_estimated_by_its_length():
    assert estimated_tokens(["x" * 400, "y" * 41]) == 100 + 11 + 2 * 4


def test_answers_will_be_as_long_as_those_that_are_there_else_as_the_examples():
    known = [Answer("", "stop", 1, 10), Answer("", "stop", 1, 20), Answer("", "stop", None, None)]
    assert mean_output(known, ["x" * 400]) == 15
    assert mean_output(known[2:], ["x" * 400, "x" * 800]) == 154
    assert mean_output([], []) == 500
    assert counted(known) == Tokens(2, 30)
