"""Chat templates run in a sandbox, in the environment that they are written for."""

import datetime
import re
import subprocess
import sys

import pytest

from asyncthink_jax.data import chat
from asyncthink_jax.data.chat import ChatTemplate

USER = [{"role": "user", "content": "é <b>"}]


def render(source, messages=USER, **variables):
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages, **variables)


def test_special_tokens_and_variables_are_there():
    assert render("{{ bos_token }}{{ custom }}{{ messages|length }}", custom=7) == "<s>71"
    assert render("{{ tools is none }}{{ documents is none }}") == "TrueTrue"


def test_thinking_is_off_unless_asked_for():
    source = "{% if enable_thinking is defined and enable_thinking is false %}off{% endif %}"
    assert render(source) == "off" and render(source, enable_thinking=True) == ""


def test_blocks_take_no_lines():
    assert (
        render("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n") == "é <b>\n"
    )


def test_loops_can_be_left_and_generation_marks_nothing():
    assert render("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("a{% generation %}{{ bos_token }}{% endgeneration %}b") == "a<s>b"


def test_json_is_not_escaped_for_html():
    assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "é <b>"}]'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": 2,\n "b": 1\n}'


def test_a_template_can_ask_for_the_date():
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.datetime.now().year + n) for n in (0, 1)}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('System role\nnot supported') }}", "System role not supported"),
        ("{{ messages[3].content.x }}", "has no element 3"),
        ("{{ messages[0]['content'] + 1 }}", "str"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% for i in range(10**9) %}x{% endfor %}", "too big"),
    ],
)
def test_what_a_template_does_wrong_is_one_line(source, says):
    with pytest.raises(ValueError, match="the chat template can't render these messages: .*" + says) as error:
        render(source)
    assert "\n" not in str(error.value)


def test_a_syntax_error_names_its_line():
    with pytest.raises(ValueError, match="chat template, line 2: "):
        ChatTemplate("x\n{% if %}", {})


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "1 s of processor time"),
        ("{{ 7 ** (7 ** 9) }}", "1 s of processor time|MemoryError"),
        ("{{ 'a' * 10**10 }}", "MemoryError"),
        ("{{ messages[0].content * (10**10) }}", "MemoryError"),
        (
            "{% set n = namespace(t='aa') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
            "MemoryError",
        ),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "more than 1048576 characters"),
        ("{{ 'a' * 2000000 }}", "more than 1048576 characters"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion depth"),
        ("{{ " + "(" * 150 + "1" + ")" * 150 + " }}", ""),
        ("{{ raise_exception('x' * 10000) }}", "x{300}$"),
    ],
)
def test_a_template_takes_so_much_time_and_memory_and_no_more(source, says, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 1)
    try:
        assert len(render(source)) < 10  # a deep expression may be one that Python can compile
    except ValueError as error:
        assert re.search(says, str(error)) and "\n" not in str(error), error
    else:
        assert not says


def test_a_template_that_is_no_template_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="expressions within each other"):
        ChatTemplate("{{ " + "(" * 100_000, {})
    with pytest.raises(ValueError, match="300000 characters, expected at most 262144"):
        ChatTemplate("x" * 300_000, {})


def test_a_template_that_escapes_from_the_sandbox_finds_nothing_in_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    command = [sys.executable, "-c", "import json, os; print(json.dumps([{'text': ' '.join(os.environ)}]))"]
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run(command, **options))
    assert "HF_TOKEN" not in render("")
