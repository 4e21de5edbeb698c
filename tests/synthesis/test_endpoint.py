"""One question by the real openai client over loopback: what is asked again, what fails, what ends the run."""

import asyncio
import email.utils
import socket
import time

import pytest
from fake_llm import KEY, Reply, refusal

from asyncthink_jax.config import ConfigError
from asyncthink_jax.synthesis import endpoint as endpoint_lib
from asyncthink_jax.synthesis.endpoint import Endpoint, EndpointError, FailedError
from asyncthink_jax.synthesis.journal import Answer

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(endpoint_lib, "BACKOFF_S", 0.001)


QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "[problem]\n3 + 4"}]}
GOOD = Answer("[thinking]\nIt falls apart.\n\n[fragments]\n1. 3 + 4", "stop", 100, 10)


def ask(tries=3, timeout_s=30.0, times=1):
    """Asks the same several times at once; gives the answers, and how often questions were asked again."""

    async def asking():
        endpoint = Endpoint(timeout_s=timeout_s, tries=tries)
        try:
            return await asyncio.gather(*[endpoint.ask(QUESTION) for _ in range(times)]), endpoint.retries
        finally:
            await endpoint.close()

    return asyncio.run(asking())


def test_a_question_is_sent_as_it_is_and_its_answer_comes_with_its_count(llm):
    assert ask() == ([GOOD], 0)
    assert llm.requests == [QUESTION]
    assert llm.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    "reply",
    [
        refusal(429, "slow down"),
        refusal(500, "oops"),
        refusal(503, "overloaded"),
        refusal(408, "too slow"),
        Reply(502, b"<html>Bad Gateway</html>"),
        Reply(body=b'{"choices": [{"mess'),
        Reply(body=b'{"error": "sorry"}'),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"message": null}]}'),
        Reply(body=b"null"),
        Reply(cut=True),
        Reply(delay_s=0.5),
    ],
    ids=lambda reply: f"{reply.status}{reply.body or b''}{'cut' if reply.cut else ''}{reply.delay_s or ''}",
)
def test_what_may_pass_is_asked_again(llm, reply):
    llm.replies = [reply, reply]
    assert ask(timeout_s=0.2 if reply.delay_s else 30) == ([GOOD], 2)
    assert llm.requests == [QUESTION] * 3


def test_a_question_fails_after_its_tries(llm):
    llm.reply_to = lambda body: refusal(500, "oops")
    with pytest.raises(FailedError, match="no answer in 4 tries: Error code: 500 - oops"):
        ask(tries=4)
    assert len(llm.requests) == 4


def test_a_question_that_is_refused_is_not_asked_again(llm):
    llm.replies = [refusal(400, "context length exceeded")]
    with pytest.raises(FailedError, match="context length exceeded"):
        ask()
    assert len(llm.requests) == 1


@pytest.mark.parametrize("headers", [{"Retry-After": "0.3"}, {"retry-after-ms": "300", "Retry-After": "60"}])
def test_nobody_asks_before_retry_after_is_over(llm, headers):
    llm.replies = [refusal(429, headers=headers)]
    ask(times=1)
    assert llm.times[1] - llm.times[0] >= 0.3


def test_retry_after_holds_for_all_questions(llm):
    answered = []
    llm.replies = [refusal(429, headers={"Retry-After": "0.3"})]

    async def asking():
        endpoint = Endpoint(timeout_s=30, tries=3)
        first = asyncio.create_task(endpoint.ask(QUESTION))
        while not endpoint.retries:
            await asyncio.sleep(0.001)
        await endpoint.ask(QUESTION)  # had not been asked when the endpoint said so
        answered.append(await first)
        await endpoint.close()

    asyncio.run(asking())
    assert answered == [GOOD] and min(llm.times[1:]) - llm.times[0] >= 0.3


def test_retry_after_may_be_a_date_and_what_is_neither_is_passed_over():
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 < endpoint_lib._retry_after_s({"retry-after": in_a_minute}) <= 60
    past = email.utils.formatdate(time.time() - 60, usegmt=True)
    assert endpoint_lib._retry_after_s({"retry-after": past}) == 0
    for text in ("soon", "-3", "inf", "nan", ""):
        assert endpoint_lib._retry_after_s({"retry-after": text}) is None
    assert endpoint_lib._retry_after_s({}) is None


def test_waiting_grows_and_differs_between_questions(llm, monkeypatch):
    waits = []
    sleep = asyncio.sleep

    async def recorded(seconds):
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(endpoint_lib.asyncio, "sleep", recorded)
    monkeypatch.setattr(endpoint_lib, "BACKOFF_S", 1.0)
    llm.reply_to = lambda body: refusal(500)

    async def asking():
        endpoint = Endpoint(timeout_s=30, tries=9)
        with pytest.raises(FailedError):
            await endpoint.ask(QUESTION)
        await endpoint.close()

    asyncio.run(asking())
    longest = [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(waits) == 8
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len({wait / most for wait, most in zip(waits, longest, strict=True)}) > 1


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), r"refuses OPENAI_API_KEY: .*provided: \*\*\*$"),
        (refusal(403, "no rights"), "refuses OPENAI_API_KEY: Error code: 403 - no rights"),
        (refusal(404, "The model `gpt-4o` does not exist"), r"doesn't know the model \(--llm\)"),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), "You exceeded your quota"),
        (refusal(429, "come tomorrow", headers={"Retry-After": "9000"}), "asks to wait for 9,000 s"),
    ],
)
def test_what_no_other_question_would_change_ends_the_run_in_one_line(llm, reply, says):
    llm.replies = [reply]
    with pytest.raises(EndpointError, match=says) as error:
        ask()
    assert len(llm.requests) == 1
    assert KEY not in str(error.value) and "\n" not in str(error.value)


def test_an_address_where_nothing_answers_ends_the_run_after_two_tries(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{KEY}@127.0.0.1:{port}/v1")
    with pytest.raises(
        EndpointError, match=f"nothing answers at http://127.0.0.1:{port}/v1 .*OPENAI_BASE_URL"
    ) as error:
        ask(tries=9)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("OPENAI_API_KEY", None, "OPENAI_API_KEY is not set; set it to a key for http://127.0.0.1"),
        ("OPENAI_API_KEY", "  ", "OPENAI_API_KEY is not set"),
        ("OPENAI_API_KEY", "sk-ä", "OPENAI_API_KEY holds characters that no key has"),
        ("OPENAI_BASE_URL", "localhost:8000/v1", "OPENAI_BASE_URL is no address; one is like https"),
        ("OPENAI_BASE_URL", "http://", "OPENAI_BASE_URL is no address"),
        ("OPENAI_BASE_URL", "http://host:port/v1", "OPENAI_BASE_URL is no address"),
    ],
)
def test_variables_that_cannot_be_right_are_refused(llm, monkeypatch, variable, value, says):
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=says):
        Endpoint(timeout_s=1, tries=1)


def test_without_the_package_a_line_says_how_to_get_it(llm, monkeypatch):
    monkeypatch.setattr(endpoint_lib, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'asyncthink_jax\[synthesize\]'"):
        Endpoint(timeout_s=1, tries=1)


def test_half_characters_become_what_can_be_written(llm):
    llm.replies = [Reply(body=b'{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}')]
    assert ask()[0] == [Answer("a?b", "stop", None, None)]
