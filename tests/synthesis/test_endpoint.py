"""One question by the real openai client over loopback: what is asked again, what fails, what ends the run."""

import asyncio
import email.utils
import functools
import gzip
import json
import socket
import time
import tracemalloc
import zlib

import pytest
from fake_llm import KEY, FakeLLM, Reply, SumsWriter, refusal

from asyncthink_jax.config import ConfigError
from asyncthink_jax.synthesis import endpoint as endpoint_lib
from asyncthink_jax.synthesis import http_client
from asyncthink_jax.synthesis.endpoint import Endpoint, EndpointError, FailedError
from asyncthink_jax.synthesis.journal import Answer

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(endpoint_lib, "BACKOFF_S", 0.001)


QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "[problem]\n3 + 4"}]}
GOOD = Answer("[thinking]\nIt falls apart.\n\n[fragments]\n1. 3 + 4", "stop", 100, 10)


def ask(tries=3, timeout_s=30.0, times=1, question=QUESTION):
    """Asks the same several times at once; gives the answers, and how often questions were asked again."""

    async def asking():
        endpoint = Endpoint(timeout_s=timeout_s, tries=tries)
        try:
            return await asyncio.gather(*[endpoint.ask(question) for _ in range(times)]), endpoint.retries
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
        Reply(delay_s=6),
    ],
    ids=lambda reply: f"{reply.status}{reply.body or b''}{'cut' if reply.cut else ''}{reply.delay_s or ''}",
)
def test_what_may_pass_is_asked_again(llm, reply):
    llm.replies = [reply, reply]
    assert ask(timeout_s=3 if reply.delay_s else 30) == ([GOOD], 2)
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
        (refusal(405, "Method Not Allowed"), "has no chat completions there: Error code: 405"),
        (
            refusal(429, "You exceeded your quota", code="insufficient_quota"),
            "no quota or credit left for OPENAI_API_KEY",
        ),
        (refusal(402, "Payment required"), "no quota or credit left for OPENAI_API_KEY: Error code: 402 - Payment req"),
        (refusal(400, "Your credit balance is too low to use this API."), "no quota or credit left .* credit balance"),
        (refusal(429, "slow", code="exceeded_current_quota_error"), "no quota or credit left"),
        (refusal(429, "You have reached your monthly spending limit."), "no quota or credit left .*spending limit"),
        (refusal(400, "over", code="budget_exceeded"), "no quota or credit left"),
        (refusal(400, "Your account balance is insufficient"), "no quota or credit left .*balance is insufficient"),
        (refusal(403, "You have run out of credits"), "no quota or credit left .*out of credits"),
        (refusal(403, "You have exceeded your monthly included credits"), "no quota or credit left .*included credits"),
        (Reply(402, b'{"error": "Insufficient funds"}'), "no quota or credit left .*402 - Insufficient funds"),
        (Reply(body=b'{"error": {"code": 402, "message": "top up"}}'), "no quota or credit left .*402 - top up"),
        (Reply(body=b'{"error": {"code": 401, "message": "who?"}}'), "refuses OPENAI_API_KEY: Error code: 401 - who?"),
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


# --- Words of the endpoint, and its forms.


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(400, b'{"error": "context is full"}'), "Error code: 400 - context is full"),
        (
            Reply(422, b'{"detail": [{"loc": ["body", "n"], "msg": "too small"}]}'),
            "Error code: 422 - body.n: too small",
        ),
        (Reply(400, b""), "Error code: 400"),
        (Reply(500, b"<html><title>Busy</title></html>"), "no answer in 1 tries: Error code: 500 - Busy"),
        (Reply(body=b'{"error": {"message": "behind me", "code": 503}}'), "in 1 tries: Error code: 503 - behind me"),
        (Reply(body=b"<html><title>Log in</title></html>"), r"no completion \(Expecting value.*\): Log in"),
        (Reply(body=b"[" * 100_000), r"no completion \(brackets in brackets, too deep to be read\)"),
        (Reply(400, b'{"error": "a\\u001b[2Jb\\u202ec"}'), r"400 - a\\x1b\[2Jb\\u202ec$"),
        (Reply(400, json.dumps({"error": "long " * 1000}).encode()), "Error code: 400 - long long"),
    ],
)
def test_an_error_is_told_in_the_endpoints_words_short_and_harmless(llm, reply, says):
    llm.replies = [reply]
    with pytest.raises(FailedError, match=says) as error:
        ask(tries=1)
    line = str(error.value)
    assert line.isprintable() and len(line) < 400


LIMITED = {**QUESTION, "max_completion_tokens": 7}


@pytest.mark.parametrize(
    "refused",
    [
        refusal(400, "Unrecognized request argument supplied: max_completion_tokens"),
        refusal(400, "no", code="unsupported_parameter: max_completion_tokens"),
        Reply(
            422, b'{"detail": [{"loc": ["body", "max_completion_tokens"], "msg": "Extra inputs are not permitted"}]}'
        ),
        Reply(400, b'{"error": "max_completion_tokens is not supported; use max_tokens"}'),
        refusal(400, "'max_completion_tokens' is not a recognized parameter"),
        refusal(400, "Please use 'max_tokens' instead of 'max_completion_tokens'"),
        refusal(422, "this model does not accept max_completion_tokens"),
        refusal(400, "parameter max_completion_tokens is forbidden"),
    ],
)
def test_an_endpoint_that_knows_the_limit_by_its_old_name_is_told_that_for_the_rest_of_the_run(llm, refused):
    llm.reply_to = lambda body: refused if "max_completion_tokens" in body else Reply()

    async def asking():
        endpoint = Endpoint(timeout_s=30, tries=1)
        answers = await asyncio.gather(*[endpoint.ask(LIMITED) for _ in range(3)])
        first = len(llm.requests)
        answers.append(await endpoint.ask(LIMITED))
        await endpoint.close()
        return answers, first, endpoint.retries

    answers, first, retries = asyncio.run(asking())
    assert answers == [GOOD] * 4 and retries == 0
    assert llm.requests[first:] == [{**QUESTION, "max_tokens": 7}]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("max_completion_tokens is too large: 7, at most 5", FailedError),
        ("max_completion_tokens is 7, must be 5 instead", FailedError),
        ("Unknown parameter: 'stop'", FailedError),
        ("neither max_tokens nor max_completion_tokens is supported: unknown", EndpointError),
    ],
)
def test_a_limit_is_spelled_otherwise_only_where_its_name_is_unknown(llm, said, kind):
    llm.reply_to = lambda body: refusal(400, said)
    with pytest.raises(kind, match=said[:20]):
        ask(question=LIMITED)
    assert len(llm.requests) == (2 if kind is EndpointError else 1)


def test_a_temperature_that_a_model_does_not_take_ends_the_run(llm):
    said = "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) is supported."
    llm.reply_to = lambda body: refusal(400, said)
    with pytest.raises(EndpointError, match=r"takes no --llm_temperature=0.5 for this model: .*Only the default"):
        ask(question={**QUESTION, "temperature": 0.5})
    with pytest.raises(FailedError):
        ask()


def test_the_key_is_not_in_an_answer_that_repeats_it(llm):
    llm.replies = [Reply(content=f"your key is {KEY}", finish=KEY)]
    assert ask()[0] == [Answer("your key is ***", "***", 100, 10)]


def test_a_stand_in_for_a_key_is_no_secret(llm, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    llm.replies = [refusal(400, "exceeds the context")]
    with pytest.raises(FailedError, match="exceeds the context"):
        ask()


# --- How much, how long, and where to.


@functools.cache
def bomb():
    """A small stream of zlib that inflates to 64 MB."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(64)]) + packer.flush()


def test_a_compressed_answer_is_inflated(llm):
    body = llm._completion({"messages": [{"content": "[problem]\n3 + 4"}]}, Reply())
    llm.replies = [
        Reply(body=gzip.compress(body), headers={"Content-Encoding": "gzip"}),
        Reply(body=zlib.compress(body), headers={"Content-Encoding": "deflate"}),
        Reply(body=body, headers={"Content-Encoding": "identity"}),
    ]
    assert [ask(tries=1) for _ in range(3)] == [([GOOD], 0)] * 3


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(body=gzip.compress(b"{}", mtime=0)[:-9], headers={"Content-Encoding": "gzip"}), "ends in the middle"),
        (Reply(body=b"{}", headers={"Content-Encoding": "gzip"}), "can't be inflated"),
        (Reply(body=b"{}", headers={"Content-Encoding": "br"}), "its encoding is br, and gzip was asked for"),
        (Reply(500, b"{}", headers={"Content-Encoding": "gzip, gzip"}), "its encoding is gzip, gzip"),
    ],
)
def test_an_encoding_that_is_broken_or_was_not_asked_for_is_told(llm, reply, says):
    llm.replies = [reply]
    with pytest.raises(FailedError, match=says):
        ask(tries=1)


@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_that_inflates_without_end_is_given_up_before_it_fills_the_memory(llm, monkeypatch, status):
    monkeypatch.setattr(http_client, "MAX_BODY", 1 << 20)
    llm.replies = [Reply(status, bomb(), headers={"Content-Encoding": "deflate"})]
    tracemalloc.start()
    with pytest.raises(FailedError, match="it has more than 1 MB"):
        ask(tries=1)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_an_answer_that_is_too_long_as_it_is_is_given_up(llm, monkeypatch):
    monkeypatch.setattr(http_client, "MAX_BODY", 1000)
    llm.replies = [Reply(content="a" * 2000)]
    assert ask() == ([GOOD], 1)


def test_an_answer_that_never_ends_is_given_up_after_the_time_of_a_whole_one(llm):
    llm.replies = [Reply(body=b'{"choices": [', trickling=True)]
    with pytest.raises(FailedError, match=r"no whole answer in 0.3 s \(--timeout\)"):
        ask(tries=1, timeout_s=0.3)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_and_the_question_go_to_no_other_address(llm, status):
    with FakeLLM(SumsWriter()) as other:
        llm.replies = [Reply(status, b"", headers={"Location": f"{other.url}/chat/completions?token=abc"})]
        with pytest.raises(EndpointError, match=f"redirects to {other.url}/chat/completions; OPENAI_BASE_URL"):
            ask()
        assert other.keys == []


def test_a_redirect_within_the_address_is_followed_but_not_in_circles(llm):
    there = {"Location": "/v1/chat/completions?again=1"}
    llm.replies = [Reply(307, b"", headers=there)]
    assert ask() == ([GOOD], 0) and llm.requests == [QUESTION] * 2
    llm.reply_to = lambda body: Reply(308, b"", headers=there)
    with pytest.raises(EndpointError, match="redirects to /v1/chat/completions"):
        ask()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTP_PROXY", "nonsense://[::"), ("SSL_CERT_FILE", "/nowhere.pem"), ("OPENAI_BASE_URL", "http://a\u200b..b/v1")],
)
def test_surroundings_that_no_client_can_be_made_of_are_one_line(llm, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises((ConfigError, FailedError)) as error:
        ask(tries=1)
    assert "\n" not in str(error.value)
