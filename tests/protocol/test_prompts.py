"""Prompt texts: what they tell is what the grammar decides, and they are rendered and kept as they are."""

import re

import pytest

from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.parser import Parser
from asyncthink_jax.protocol.prompts import (
    TINY,
    WORKER_EXAMPLES,
    Prompts,
    base_prompts,
    chat_prompts,
    organizer_examples,
    organizer_instructions,
    worker_instructions,
)

POOLS = [Grammar(2, 1), Grammar(2, 6), Grammar(3, 1), Grammar(4, 6), Grammar(16, 40)]


def chatml(messages):
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages) + "<|assistant|>"


def decoded(text):
    """An organizer's text without what a Join inserts."""
    return re.sub(r"(<JOIN-\d+>)[^<]*</JOIN-\d+>", r"\1", text)


def test_the_tiny_prompts_read_as_the_task_writes_them():
    assert TINY.for_organizer("5 6 8 10 = 3") == "solve 5 6 8 10 = 3 :"
    assert TINY.for_worker(" 5 8 6 10 = 3") == "work 5 8 6 10 = 3 :"


def test_braces_in_a_template_or_a_query_are_left_alone():
    assert Prompts("{x} {query}", "", "").for_organizer("{query} {}") == "{x} {query} {}"


@pytest.mark.parametrize("template", ["solve", "{query}{query}"])
def test_a_template_without_its_one_query_is_refused(template):
    with pytest.raises(ValueError, match="exactly once"):
        Prompts(template, "", "")


@pytest.mark.parametrize("grammar", POOLS)
def test_the_examples_of_an_organizer_are_well_formed_in_its_pool(grammar):
    most = 0
    for _, answer in organizer_examples(grammar):
        parser = Parser("organizer", grammar)
        parser.feed(decoded(answer))
        assert parser.done and not parser.error
        assert parser.used == parser.joined
        most = max(most, len(parser.used))
    assert most == min(2, grammar.capacity - 1, grammar.max_forks)


@pytest.mark.parametrize("answer", [answer for _, answer in WORKER_EXAMPLES])
def test_the_examples_of_a_worker_are_well_formed(answer):
    parser = Parser("worker", Grammar(2, 1))
    parser.feed(answer)
    assert parser.done and not parser.error


@pytest.mark.parametrize("grammar", [Grammar(1, 0), Grammar(1, 6), Grammar(4, 0)])
def test_an_organizer_without_workers_is_told_of_the_answer_alone(grammar):
    for _, answer in organizer_examples(grammar):
        parser = Parser("organizer", grammar)
        parser.feed(answer)
        assert parser.done and not parser.error
        assert not re.search("FORK|JOIN|RETURN|worker", organizer_instructions(grammar) + answer)


@pytest.mark.parametrize("grammar", POOLS)
def test_the_instructions_name_the_pool_and_the_largest_id(grammar):
    text = organizer_instructions(grammar)
    assert f"organizer of {grammar.capacity} agents" in text
    assert ("i is 1;" if grammar.max_forks == 1 else f"i is a number from 1 to {grammar.max_forks};") in text
    assert ("One worker is busy" if grammar.capacity == 2 else f"At most {grammar.capacity - 1} workers are") in text


def test_the_task_stands_with_the_instructions():
    for grammar in (Grammar(4, 6), Grammar(1, 0)):
        assert organizer_instructions(grammar, "Answer with a number. ").endswith("\n\nAnswer with a number.")


def turns(examples):
    return [
        {"role": role, "content": text}
        for example in examples
        for role, text in zip(("user", "assistant"), example, strict=True)
    ]


def test_a_chat_template_is_rendered_around_a_query_and_a_sub_query():
    grammar = Grammar(4, 6)
    prompts = chat_prompts(chatml, grammar)
    asked = [
        {"role": "system", "content": organizer_instructions(grammar)},
        *turns(organizer_examples(grammar)),
        {"role": "user", "content": "What is {query}?"},
    ]
    assert prompts.for_organizer("What is {query}?") == chatml(asked)
    asked = [
        {"role": "system", "content": worker_instructions()},
        *turns(WORKER_EXAMPLES),
        {"role": "user", "content": "x"},
    ]
    assert prompts.for_worker("x") == chatml(asked)
    assert prompts.worker_suffix == "<|end|><|assistant|>"


def refuses_system(messages):
    if messages[0]["role"] == "system":
        raise ValueError("System role not supported")
    return chatml(messages)


def leaves_system_out(messages):
    return chatml([m for m in messages if m["role"] != "system"])


@pytest.mark.parametrize("render", [refuses_system, leaves_system_out])
def test_instructions_go_to_the_user_where_there_is_no_system_message(render):
    prompts = chat_prompts(render, Grammar(4, 6))
    asked, *others = turns(organizer_examples(Grammar(4, 6)))
    asked["content"] = organizer_instructions(Grammar(4, 6)) + "\n\n" + asked["content"]
    assert prompts.for_organizer("5 6") == chatml([asked, *others, {"role": "user", "content": "5 6"}])
    assert worker_instructions() + "\n\n" in prompts.worker_prefix


def twice(messages):
    return chatml(messages) * 2


def fails(messages):
    raise ValueError("no user role")


@pytest.mark.parametrize(("render", "says"), [(twice, "as it is$"), (fails, "as it is: no user role")])
def test_a_template_that_cannot_show_the_query_is_refused(render, says):
    with pytest.raises(ValueError, match=says):
        chat_prompts(render, Grammar(4, 6))


def test_a_base_model_reads_one_text():
    prompts = base_prompts(Grammar(4, 6), "Be exact.", begin="<s>")
    assert prompts.for_organizer("Why?").startswith("<s>You are the organizer")
    question, answer = organizer_examples(Grammar(4, 6))[-1]
    assert "Be exact.\n\nQuestion: What is 17" in prompts.for_organizer("Why?")
    last = f"Question: {question}\n\nOrganizer: {answer}\n\nQuestion: Why?\n\nOrganizer:"
    assert prompts.for_organizer("Why?").endswith(last)
    assert prompts.for_worker(" How?").endswith("\n\nSub-query:  How?\n\nWorker:")
    assert base_prompts(Grammar(1, 0)).for_organizer("Why?").endswith("Question: Why?\n\nThoughts:")


def test_prompts_come_back_from_their_file(tmp_path):
    prompts = Prompts("é\n{query}<|end|>", "a\u2028", "")
    prompts.save(tmp_path / "prompts.json")
    assert Prompts.load(tmp_path / "prompts.json") == prompts


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "prompts.json: "),
        ("[]", "must be a JSON object of organizer, worker_prefix, worker_suffix"),
        ('{"organizer": "{query}"}', "must be a JSON object of"),
        ('{"organizer": "{query}", "worker_prefix": 1, "worker_suffix": ""}', "every prompt must be a text"),
        ('{"organizer": "", "worker_prefix": "", "worker_suffix": ""}', "{query} exactly once"),
    ],
)
def test_a_file_that_holds_no_prompts_is_named(content, says, tmp_path):
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(ValueError) as error:
        Prompts.load(tmp_path / "prompts.json")
    assert says in str(error.value) and "prompts.json" in str(error.value)
    with pytest.raises(FileNotFoundError):
        Prompts.load(tmp_path / "missing.json")
