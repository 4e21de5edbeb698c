"""Bodies as endpoints send them: the answer in them, or what is wrong in the endpoint's own words."""

import json

import pytest

from asyncthink_jax.synthesis import completion
from asyncthink_jax.synthesis.journal import Answer


def body(content, finish="stop", usage=None, **others):
    """The body of a completion."""
    choice = {"message": {"role": "assistant", "content": content, **others}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def answer(data):
    return completion.answer(completion.parsed(data))


def chunk(**delta):
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": None}]}).encode() + b"\n\n"


END = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("all", "all"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "ll"}], "all"),
        ([{"type": "output_text", "text": "all", "annotations": []}], "all"),
        ([{"type": "text", "text": {"value": "all", "annotations": []}}], "all"),
        (["al", "l"], "all"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "all"}], "all"),
        ([{"type": "reasoning", "text": "hm"}, {"text": "all"}, {"type": "image_url", "image_url": {}}], "all"),
        ([], ""),
        (None, ""),
    ],
)
def test_chunks_of_text_are_joined_and_those_of_thinking_left_out(content, text):
    assert answer(body(content)).text == text


@pytest.mark.parametrize(
    "data",
    [
        body(None, reasoning_content="hm"),
        body("", reasoning="hm"),
        body(" \n", reasoning_content="hm"),
        body([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
        body(None, reasoning_content=[{"type": "text", "text": "hm"}]),
    ],
)
def test_reasoning_in_place_of_an_answer_is_kept_as_reasoning(data):
    assert answer(data).text == "<think>\nhm\n</think>"


def test_reasoning_beside_an_answer_is_no_part_of_it():
    assert answer(body("all", reasoning_content="hm")).text == "all"


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4)),
        ({"prompt_tokens": True, "completion_tokens": "4"}, (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": 10**400}, (None, None)),
        ({"completion_tokens": 4.0}, (None, None)),
        (None, (None, None)),
        ([], (None, None)),
    ],
)
def test_what_is_no_count_of_tokens_is_none(usage, counts):
    assert answer(body("all", usage=usage)) == Answer("all", "stop", *counts)


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_limit_that_was_reached_is_told_in_one_word(finish):
    assert answer(body("a", finish)).finish == "length"


def test_a_stream_that_nobody_asked_for_is_put_together():
    stream = b": waking up\n\n" + chunk(role="assistant") + chunk(reasoning_content="hm") + chunk(content="al")
    assert answer(stream + chunk(content="l") + END) == Answer("all", "stop", 3, None)
    with pytest.raises(ValueError, match="a stream that ends in the middle"):
        answer(stream)
    failed = completion.parsed(stream + b'data: {"error": {"message": "gone"}}\n\n')
    assert completion.error_of(failed) == {"message": "gone"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"sorry",
        b"null",
        b"[1]",
        b'"text"',
        b'{"choices": null}',
        b'{"choices": {}}',
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": [{"text": "a"}]}',
        b'{"choices": [{"message": "a"}]}',
        body(7),
        body({"text": "a"}),
        body([["a"]]),
        b"[" * 200_000,
        b"1" * 10_000,
        b"\xff\xfe{}",
        b"data: {\n\n",
    ],
)
def test_what_is_no_completion_is_refused(data):
    with pytest.raises(ValueError):
        answer(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"error": {"message": "too long", "type": "x", "code": null}}', "too long"),
        (b'{"error": "out of memory"}', "out of memory"),
        (b'{"error": {"code": 7}}', '{"code": 7}'),
        (b'{"object": "error", "message": "no such template", "code": 400}', "no such template"),
        (b'{"detail": "Not here"}', "Not here"),
        (
            b'{"detail": [{"type": "extra", "loc": ["body", "max_tokens"], "msg": "Not permitted"}]}',
            "body.max_tokens: Not permitted",
        ),
        (b'{"message": {"detail": [{"msg": "a"}, {"msg": "b"}]}}', "a; b"),
        (b'[{"error": {"message": "no such field", "code": 400, "status": "INVALID_ARGUMENT"}}]', "no such field"),
        (b'{"errors": ["a", "b"]}', '["a", "b"]'),
        (b'{"status": "down"}', '{"status": "down"}'),
        (b"plain words", "plain words"),
        (b" <!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head><body>nginx</body>", "502 Bad\nGateway"),
        (b"<html><body><h1>Sorry</h1> &amp; bye</body></html>", "Sorry  & bye"),
        (b"", ""),
        (b"\xff", "\ufffd"),
        (b'{"error": ' + b"[" * 5000, '{"error": ' + "[" * 5000),
    ],
)
def test_an_error_is_told_in_the_endpoints_words(data, says):
    assert " ".join(completion.complaint(data).split()) == " ".join(says.split())


def test_a_long_error_is_not_read_to_its_end():
    assert len(completion.complaint(b'{"error": "' + b"a" * 1_000_000 + b'"}')) <= 20_000


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429}, 429),
        ({"code": "402"}, 402),
        ({"code": "insufficient_quota"}, 502),
        ({"code": 200}, 502),
        ({"code": -400}, 502),
        ("sorry", 502),
        ({}, 502),
    ],
)
def test_an_error_under_status_200_names_its_own(error, status):
    assert completion.status_in(error) == status
