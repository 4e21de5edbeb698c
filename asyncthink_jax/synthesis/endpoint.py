"""One question to an OpenAI-compatible endpoint: asked again where that may help, and what ends the whole run.

| what comes back | what follows |
|---|---|
| 429, 5xx, 408, 409, a timeout, a cut connection, a body that is no completion | asked again, up to `tries` times |
| other 4xx | this question fails: the next one may be a better one |
| 401, 403, 404, a quota that is used up, nothing at the address | the run ends: no question would do better |

Between two tries it waits as long as `Retry-After` says, and without that `BACKOFF_S` times 1, 2, 4 .. up to
`MAX_BACKOFF_S`, half of it at random, so that questions that failed together don't come back together. A `Retry-After`
holds for all questions: the endpoint means whoever asks.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import itertools
import os
import random
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

try:
    import openai
except ImportError:  # the extra [synthesize]; what asks nothing works without it
    openai = None  # type: ignore[assignment]

from asyncthink_jax.config import ConfigError
from asyncthink_jax.synthesis.journal import Answer

BACKOFF_S = 1.0  # before the second try, where the endpoint doesn't say
MAX_BACKOFF_S = 60.0
MAX_WAIT_S = 600.0  # an endpoint that wants more is out of quota, not busy
UNREACHED_TRIES = 2  # where nothing has ever answered: the address is wrong, rather than the network bad
_MESSAGE = 300  # characters of an endpoint's message that are shown


class EndpointError(Exception):
    """What no further question would change; the message is one line for the reader."""


class FailedError(Exception):
    """A question that has no answer, now; the message is one line for the reader."""


class Endpoint:
    """Where questions are sent, with what `OPENAI_BASE_URL` and `OPENAI_API_KEY` say. The key is shown nowhere.

    Attributes:
      where: the address, without a name and password in it.
      retries: questions that were asked again, so far.
    """

    def __init__(self, *, timeout_s: float, tries: int):
        """Raises ConfigError where the package or a variable is missing or can't be right. Connects to nothing yet."""
        if openai is None:
            raise ConfigError("this needs the package openai: pip install 'asyncthink_jax[synthesize]'")
        base_url = os.environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
        self.where = address(base_url)
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self._key:
            raise ConfigError(
                f"OPENAI_API_KEY is not set; set it to a key for {self.where} (any text, if it wants none)"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError("OPENAI_API_KEY holds characters that no key has")
        self._client = openai.AsyncOpenAI(api_key=self._key, base_url=base_url, timeout=timeout_s, max_retries=0)
        self._tries = tries
        self._reached = False  # whether anything has ever answered
        self._not_before = 0.0  # no question is asked before this time
        self.retries = 0

    async def ask(self, question: Mapping[str, Any]) -> Answer:
        """The answer to the arguments of a chat completion.

        Raises:
          EndpointError: the run is over.
          FailedError: the question has no answer, after all tries.
        """
        for attempt in itertools.count(1):
            while (wait_s := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            try:
                completion = await self._client.chat.completions.create(**question)
                self._reached = True
                return _answer(completion)
            except openai.OpenAIError as error:
                said, retry_after_s = self._judged(error, attempt)
            except ValueError as error:  # JSON that isn't, or a completion without what one has
                self._reached = True
                said, retry_after_s = f"it answered with no completion ({self._safe(error)})", None
            if attempt >= self._tries:
                raise FailedError(f"no answer in {attempt} tries: {said}")
            self.retries += 1
            if retry_after_s is None:
                wait_s = min(BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S) * random.uniform(0.5, 1)
            else:
                self._not_before = max(self._not_before, time.monotonic() + retry_after_s)
                wait_s = retry_after_s + random.uniform(0, BACKOFF_S)
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.close()

    def _judged(self, error: openai.OpenAIError, attempt: int) -> tuple[str, float | None]:
        """What is wrong, and how long the endpoint wants to be left alone, if the question may be asked again."""
        if isinstance(error, openai.APITimeoutError):
            return "timed out", None
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            if type(cause).__name__ == "ConnectError" and not self._reached and attempt >= UNREACHED_TRIES:
                raise EndpointError(
                    f"nothing answers at {self.where} ({self._safe(cause)}); OPENAI_BASE_URL says where the endpoint is"
                ) from None
            return f"the connection broke ({self._safe(cause) or type(cause).__name__})", None
        if not isinstance(error, openai.APIStatusError):
            raise FailedError(self._safe(error)) from None
        self._reached = True
        message, status = self._safe(error), error.status_code
        if status in (401, 403):
            raise EndpointError(f"{self.where} refuses OPENAI_API_KEY: {message}") from None
        if status == 404:
            raise EndpointError(
                f"{self.where} doesn't know the model (--llm), or has no chat completions there: {message}"
            ) from None
        if error.code == "insufficient_quota":
            raise EndpointError(f"{self.where}: {message}") from None
        if status < 500 and status not in (408, 409, 429):
            raise FailedError(message)
        retry_after_s = _retry_after_s(error.response.headers)
        if retry_after_s is not None and retry_after_s > MAX_WAIT_S:
            raise EndpointError(f"{self.where} asks to wait for {retry_after_s:,.0f} s: {message}") from None
        return message, retry_after_s

    def _safe(self, error: BaseException) -> str:
        """An error in one line, without the key: some endpoints repeat it."""
        text = " ".join(str(error).split()).replace(self._key, "***")
        return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}.."


def address(base_url: str) -> str:
    """A base URL without what is secret in it. Raises ConfigError if it is none."""
    try:
        parts = urllib.parse.urlsplit(base_url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urllib.parse.SplitResult("", "", "", "", ""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("OPENAI_BASE_URL is no address; one is like https://api.openai.com/v1")
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _answer(completion: Any) -> Answer:
    """Raises ValueError for what is no completion: some proxies answer 200 with a page that says they are sorry."""
    try:
        choice = completion.choices[0]
        text = choice.message.content or ""
        finish = str(choice.finish_reason or "")
        counts = [getattr(completion.usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    except (AttributeError, TypeError, IndexError):
        raise ValueError("no choices in it") from None
    if not isinstance(text, str):
        raise ValueError("its content is no text")
    text = text.encode("utf-8", "replace").decode()  # JSON can spell half a character, and nothing could write that
    tokens_in, tokens_out = (count if isinstance(count, int) else None for count in counts)
    return Answer(text, finish, tokens_in, tokens_out)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or from `Retry-After` in seconds or as a date; None if nothing (sound) is said."""
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, date.timestamp() - time.time())
