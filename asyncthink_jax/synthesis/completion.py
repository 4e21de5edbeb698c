"""What the body of a response says: the answer of a completion, or the endpoint's own words about what is wrong.

Endpoints that speak OpenAI's protocol differ in both. A content may be a text, or chunks of which some are thinking;
reasoning may stand in the content, in a field of its own, or in its place. An error may be an object, a text, a list of
what a validator found, or a page; and a proxy may send one under status 200, or a stream where none was asked for.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

from asyncthink_jax.synthesis.journal import Answer

_LENGTH = ("length", "max_tokens", "model_length", "max_output_tokens")  # how endpoints say that the limit was reached
_MOST_TOKENS = 1 << 40  # a count above that is none
_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(r"<[^<>]*>")
_READ = 20_000  # bytes of an error that are read


def parsed(body: bytes) -> Any:
    """The JSON of a body; a stream of chunks is put together to what it would have been without streaming.

    Raises ValueError for what is neither.
    """
    if body.lstrip().startswith((b"data:", b"event:", b":")):
        return _joined(body)
    return _json(body)


def _json(text: bytes | str) -> Any:
    """What is in a body, also out of a list of one, in which some put their errors."""
    try:
        found = json.loads(text)
        return found[0] if isinstance(found, list) and len(found) == 1 else found
    except RecursionError:
        raise ValueError("brackets in brackets, too deep to be read") from None


def _joined(body: bytes) -> Any:
    """The completion of a stream. Raises ValueError if it ends before its end, an error in it is given back alone."""
    content, reasoning, finish, usage = "", "", None, None
    for line in body.decode("utf-8", "replace").splitlines():
        if not line.startswith("data:") or line[5:].strip() in ("", "[DONE]"):
            continue
        chunk = _json(line[5:])
        if not isinstance(chunk, Mapping) or error_of(chunk) is not None:
            return chunk
        usage = chunk.get("usage") or usage
        choice = _first_choice(chunk, needed=False)
        delta = choice.get("delta")
        if isinstance(delta, Mapping):
            content += _texts(delta.get("content"))[0]
            reasoning += _texts(delta.get("reasoning_content") or delta.get("reasoning"))[0]
        finish = choice.get("finish_reason") or finish
    if finish is None:
        raise ValueError("a stream that ends in the middle")
    message = {"content": content, "reasoning_content": reasoning}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def answer(data: Any) -> Answer:
    """The answer in a completion. One that has reasoning alone is that, in a <think> block.

    Raises ValueError for what is no completion: some proxies answer 200 with a page that says they are sorry.
    """
    choice = _first_choice(data)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise ValueError("no message in its choice")
    text, thinking = _texts(message.get("content"))
    for name in ("reasoning_content", "reasoning", "thinking"):
        thinking = thinking or _texts(message.get(name))[0]
    if not text.strip() and thinking.strip():
        text = f"<think>\n{thinking}\n</think>"
    text = text.encode("utf-8", "replace").decode()  # JSON can spell half a character, and nothing could write that
    finish = str(choice.get("finish_reason") or "")[:40]
    usage = data.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    tokens = [_count(counts.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    return Answer(text, "length" if finish.lower() in _LENGTH else finish, *tokens)


def _first_choice(data: Any, needed: bool = True) -> Mapping[str, Any]:
    choices = data.get("choices") if isinstance(data, Mapping) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return choices[0]
    if needed:
        raise ValueError("no choices in it")
    return {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None


def _texts(content: Any) -> tuple[str, str]:
    """Text and thinking of a content: a text, chunks of both kinds, or nothing. Raises ValueError for another thing."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list) or not all(isinstance(part, str | Mapping) for part in content):
        raise ValueError("its content is no text")
    said, thought = "", ""
    for part in content:
        if isinstance(part, str):
            said += part
        elif part.get("type") in ("thinking", "reasoning"):
            inner = part.get(part["type"], part.get("text"))
            thought += inner if isinstance(inner, str) else _texts(inner)[0]
        else:
            inner = part.get("text")
            inner = inner.get("value") if isinstance(inner, Mapping) else inner
            said += inner if isinstance(inner, str) else ""
    return said, thought


def error_of(data: Any) -> Any:
    """The error in the JSON of a body, None if there is none."""
    if not isinstance(data, Mapping):
        return None
    if data.get("error"):
        return data["error"]
    choice = _first_choice(data, needed=False)
    return choice.get("error") or None


def status_in(error: Any) -> int:
    """The status that an error under status 200 stands for; 502 where it doesn't say."""
    code = error.get("code") if isinstance(error, Mapping) else None
    text = str(code)[:3]
    return int(text) if text.isascii() and text.isdigit() and str(code) == text and 400 <= int(text) < 600 else 502


def complaint(body: bytes) -> str:
    """The endpoint's own words about what is wrong, "" if it has none. It may have control characters in it."""
    start = body[:_READ].decode("utf-8", "replace").strip()
    if _PAGE.match(body):
        title = _TITLE.search(start)
        return html.unescape(title[1] if title else _MARK.sub(" ", start)).strip()
    try:
        return _words(_json(body)) if len(body) <= _READ else start
    except ValueError:
        return start


def labels(body: bytes) -> str:
    """The short names by which an error goes beside its message: its code, type and parameter."""
    try:
        error = error_of(_json(body)) if len(body) <= _READ else None
    except ValueError:
        return ""
    fields = error if isinstance(error, Mapping) else {}
    return " ".join(str(fields[name]) for name in ("code", "type", "param") if isinstance(fields.get(name), str | int))


def _words(data: Any) -> str:
    """The message in the JSON of an error; all of it, where no known place has one."""
    found = data
    for _ in range(4):  # {"error": {"message": {"detail": ..
        if not isinstance(found, Mapping):
            break
        names = ("error", "message", "detail", "msg", "errors", "error_description")
        inner = next((found[name] for name in names if found.get(name)), None)
        if inner is None:
            break
        found = inner
    if isinstance(found, list) and found and all(isinstance(one, Mapping) and one.get("msg") for one in found):
        return "; ".join(f"{_path(one.get('loc'))}{one['msg']}" for one in found)  # of a validator
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _path(place: Any) -> str:
    return ".".join(map(str, place)) + ": " if isinstance(place, list) and place else ""
