"""Prompt texts."""

import pytest

from asyncthink_jax.protocol.prompts import TINY, Prompts


def test_the_tiny_prompts_read_as_the_task_writes_them():
    assert TINY.for_organizer("5 6 8 10 = 3") == "solve 5 6 8 10 = 3 :"
    assert TINY.for_worker(" 5 8 6 10 = 3") == "work 5 8 6 10 = 3 :"


def test_braces_in_a_template_or_a_query_are_left_alone():
    assert Prompts("{x} {query}", "", "").for_organizer("{query} {}") == "{x} {query} {}"


@pytest.mark.parametrize("template", ["solve", "{query}{query}"])
def test_a_template_without_its_one_query_is_refused(template):
    with pytest.raises(ValueError, match="exactly once"):
        Prompts(template, "", "")
