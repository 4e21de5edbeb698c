"""One question to an OpenAI-compatible endpoint: asked again where that may help, and what ends the whole run.

| what comes back | what follows |
|---|---|
| 429, 5xx, 408, 409, a timeout, a cut connection, a body that is no completion | asked again, up to `tries` times |
| a refusal of `max_completion_tokens` | asked as `max_tokens`, and so are all questions that follow |
| other 4xx | this question fails: the next one may be a better one |
| 401, 403, 404, 405, a used-up quota, a refused temperature, a redirect, nothing at the address | the run ends |

An error under status 200 counts as the status in it. Between two tries it waits as long as `Retry-After` says, and
without that `BACKOFF_S` times 1, 2, 4 .. up to `MAX_BACKOFF_S`, half of it at random, so that questions that failed
together don't come back together. A `Retry-After` holds for all questions: the endpoint means whoever asks.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import email.utils
import itertools
import json
import os
import random
import re
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

try:
    import openai
except ImportError:  # the extra [synthesize]; what asks nothing works without it
    openai = None  # type: ignore[assignment]

from asyncthink_jax.config import ConfigError
from asyncthink_jax.shown import harmless
from asyncthink_jax.synthesis import completion, http_client
from asyncthink_jax.synthesis.journal import LIMIT, Answer

BACKOFF_S = 1.0  # before the second try, where the endpoint doesn't say
MAX_BACKOFF_S = 60.0
MAX_WAIT_S = 600.0  # an endpoint that wants more is out of quota, not busy
UNREACHED_TRIES = 2  # where nothing has ever answered: the address is wrong, rather than the network bad
LIMITS = (LIMIT, "max_tokens")  # spellings of the limit of an answer; the first is tried first
_MESSAGE = 300  # characters of an endpoint's message that are shown
_SECRET = 8  # characters of a key from which on it is one, and no "x" for an endpoint that wants none
# In the code, type or message of an error: nothing is answered until somebody pays.
_USED_UP = re.compile(
    r"insufficient[_ ](\w+[_ ])?(quota|balance|credits?|funds?)\b|billing_hard_limit_reached|billing_not_active|"
    r"exceeded[_ ](your[_ ])?current[_ ]quota|credit balance is too low|\barrearage\b|"
    r"balance is (insufficient|not enough|too low)|\b(out of|no|not enough|all available) credits?\b|"
    r"credits? (is|are|have been|has been)? ?(exhausted|used up|depleted)|included credits|"
    r"budget[_ ](has been )?exceeded|(spending|api usage) limits?\b",
    re.IGNORECASE,
)
# In a message that names an argument: the argument is unknown, rather than its value out of range.
_UNKNOWN = re.compile(
    r"unsupported|(not|n't) (be )?(supported|permitted|allowed|implemented|set|used|found)|"
    r"(does not|doesn't) (support|accept|take|allow)|not (a )?recogni[sz]ed|unrecogni[sz]ed|unknown|unexpected|"
    r"did not expect|no such|forbidden|deprecated|use .?max_tokens|extra (inputs|fields|data)|"
    r"invalid (argument|parameter|field|key)|not a valid",
    re.IGNORECASE,
)


class EndpointError(Exception):
    """What no further question would change; the message is one line for the reader."""


class FailedError(Exception):
    """A question that has no answer, now; the message is one line for the reader."""


class _PassingError(Exception):
    """What may be better at another try, after `retry_after_s` if the endpoint says so; the message is one line."""

    def __init__(self, said: str, retry_after_s: float | None = None):
        super().__init__(said)
        self.retry_after_s = retry_after_s


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
        parts = urllib.parse.urlsplit(base_url)
        self._secrets = [one for one in (self._key, parts.password, parts.query) if one and len(one) >= _SECRET]
        try:
            client = http_client.bounded(openai.DefaultAsyncHttpxClient, timeout=timeout_s)
            self._client = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=base_url,
                timeout=timeout_s,
                max_retries=0,
                default_headers={"Accept-Encoding": http_client.ENCODING},
                http_client=client,
            )
        except Exception as error:  # whatever is made of an odd address, a proxy's, or files of certificates
            raise ConfigError(
                f"no client for {self.where} can be set up ({self._safe(error)}); see OPENAI_BASE_URL, and the "
                "variables of proxies and certificates"
            ) from None
        self._timeout_s = timeout_s
        self._tries = tries
        self._reached = False  # whether anything has ever answered
        self._not_before = 0.0  # no question is asked before this time
        self._limits = list(LIMITS)  # those that have not been refused
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
                return await self._asked(question, attempt)
            except _PassingError as error:
                said, retry_after_s = str(error), error.retry_after_s
            if attempt >= self._tries:
                raise FailedError(f"no answer in {attempt} tries: {said}")
            self.retries += 1
            if retry_after_s is None:
                wait_s = min(BACKOFF_S * 2 ** min(attempt - 1, 20), MAX_BACKOFF_S) * random.uniform(0.5, 1)
            else:
                self._not_before = max(self._not_before, time.monotonic() + retry_after_s)
                wait_s = retry_after_s + random.uniform(0, BACKOFF_S)
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.close()

    async def _asked(self, question: Mapping[str, Any], attempt: int) -> Answer:
        """One try, in the spelling of the limit that this endpoint takes. Raises as `ask`, or _PassingError."""
        while True:
            spelling = self._limits[0]
            sent = {spelling if name == LIMIT else name: value for name, value in question.items()}
            status, headers, body = await self._sent(sent, attempt)
            self._reached = True
            if status < 300:
                try:
                    data = completion.parsed(body)
                    wrong = completion.error_of(data)
                    if wrong is None:
                        return self._without_secrets(completion.answer(data))
                    body = json.dumps({"error": wrong}).encode()  # alone, out of whatever stands around it
                except (ValueError, RecursionError) as error:
                    said = f"it answered with no completion ({error}): {completion.complaint(body)}"
                    raise _PassingError(self._safe(said)) from None
                status = completion.status_in(wrong)
            said, labels = completion.complaint(body), completion.labels(body)
            if not (LIMIT in question and status in (400, 422) and _is_unknown(spelling, f"{labels} {said}")):
                raise self._judged(status, headers, said, labels, question)
            if spelling != self._limits[0]:  # another question has found it out meanwhile
                continue
            if len(self._limits) == 1:
                raise EndpointError(f"{self.where} takes neither {' nor '.join(LIMITS)}: {self._safe(said)}")
            del self._limits[0]

    async def _sent(self, sent: Mapping[str, Any], attempt: int) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body that come back."""
        try:
            async with asyncio.timeout(self._timeout_s):  # of all of it; the client's own is for each read
                raw = await self._client.chat.completions.with_raw_response.create(**sent)
            return raw.http_response.status_code, raw.http_response.headers, raw.http_response.content
        except (TimeoutError, openai.APITimeoutError):
            raise _PassingError(f"no whole answer in {self._timeout_s:g} s (--timeout)") from None
        except openai.APIStatusError as error:
            return error.status_code, error.response.headers, error.response.content
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            said = self._safe(cause) or type(cause).__name__
            if type(cause).__name__ == "ConnectError" and not self._reached and attempt >= UNREACHED_TRIES:
                raise EndpointError(
                    f"nothing answers at {self.where} ({said}); OPENAI_BASE_URL says where the endpoint is"
                ) from None
            raise _PassingError(f"the connection broke ({said})") from None
        except openai.OpenAIError as error:
            raise FailedError(self._safe(error)) from None
        except ValueError as error:  # of `http_client.py`
            self._reached = True
            raise _PassingError(f"its answer can't be read: {self._safe(error)}") from None

    def _judged(
        self, status: int, headers: Mapping[str, str], said: str, labels: str, question: Mapping[str, Any]
    ) -> Exception:
        """What follows from an error of the endpoint, with its words and labels (`completion.py`)."""
        message = self._safe(f"Error code: {status} - {said or labels}" if said or labels else f"Error code: {status}")
        if status == 402 or _USED_UP.search(f"{labels} {said}"):
            return EndpointError(f"{self.where} has no quota or credit left for OPENAI_API_KEY: {message}")
        if status in (401, 403):
            return EndpointError(f"{self.where} refuses OPENAI_API_KEY: {message}")
        if status in (404, 405):
            return EndpointError(
                f"{self.where} doesn't know the model (--llm), or has no chat completions there: {message}"
            )
        if status < 400:
            place = self._safe(headers.get("location", "nowhere").partition("?")[0])
            return EndpointError(f"{self.where} redirects to {place}; OPENAI_BASE_URL must name what may have the key")
        if status in (400, 422) and "temperature" in question and _is_unknown("temperature", f"{labels} {said}"):
            return EndpointError(
                f"{self.where} takes no --llm_temperature={question['temperature']:g} for this model: {message}"
            )
        if status < 500 and status not in (408, 409, 429):
            return FailedError(message)
        retry_after_s = _retry_after_s(headers)
        if retry_after_s is not None and retry_after_s > MAX_WAIT_S:
            return EndpointError(f"{self.where} asks to wait for {retry_after_s:,.0f} s: {message}")
        return _PassingError(message, retry_after_s)

    def _safe(self, text: object) -> str:
        """One short line of the endpoint's words, without the key: some endpoints repeat it."""
        return harmless(self._masked(" ".join(str(text).split())), _MESSAGE)

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _without_secrets(self, answer: Answer) -> Answer:
        return dataclasses.replace(answer, text=self._masked(answer.text), finish=self._masked(answer.finish))


def _is_unknown(argument: str, said: str) -> bool:
    """Whether an error says that the endpoint doesn't take an argument, rather than that its value is out of range."""
    return re.search(rf"\b{argument}\b", said) is not None and _UNKNOWN.search(said) is not None


def address(base_url: str) -> str:
    """A base URL without what is secret in it. Raises ConfigError if it is none."""
    try:
        parts = urllib.parse.urlsplit(base_url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urllib.parse.SplitResult("", "", "", "", ""), ""
    if not base_url.isprintable() or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("OPENAI_BASE_URL is no address; one is like https://api.openai.com/v1")
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


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
