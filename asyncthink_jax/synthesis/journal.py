"""Every answer of the endpoint, in a file, a line each, from the moment it is there: what is paid for is never lost.

Answers are filed by what was asked, to the last character, and of whom. So the same command asks nothing twice, however
it ended before, and another prompt, plan or model is another question. How long an answer may be is no part of the
question: with a higher limit those alone are asked again that the lower one has cut off. What follows from the answers
(which of them are kept, and why not) is in no journal: it is worked out anew each time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from asyncthink_jax.config import ConfigError
from asyncthink_jax.files import append
from asyncthink_jax.shown import complain

_START = b'{"question": "'  # of a record; within the texts of one, quotation marks are escaped
LIMIT = "max_completion_tokens"  # the argument of a chat completion


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the endpoint said.

    Attributes:
      text: of the answer, "" if there is none.
      finish: why it ended, in the endpoint's words: "stop", "length", "content_filter" ..
      input_tokens, output_tokens: as the endpoint counts them, None if it doesn't.
      limit: how many tokens it was allowed, None if nothing was said of it.
    """

    text: str
    finish: str
    input_tokens: int | None
    output_tokens: int | None
    limit: int | None = None


def key_of(question: Mapping[str, Any]) -> str:
    """The name of a question in the journal: of all that the endpoint is sent but the limit of the answer."""
    asked = {name: value for name, value in question.items() if name != LIMIT}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


class Journal:
    """The answers in a file. It is only appended to.

    A last line that a kill or a full disk cut off is taken away first. One that has got a later record on the same line
    is passed over, and the record read. `answers` are those in the file, by their questions' keys, of each question the
    last.
    """

    def __init__(self, path: Path):
        """Reads the file, if there is one. Raises ConfigError for one that can't be read, or is no journal."""
        self.path = path
        self.answers: dict[str, Answer] = {}
        self._file: BinaryIO | None = None
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}") from error
        *lines, rest = data.split(b"\n")
        self._whole = len(data) - len(rest)  # bytes of whole lines
        for number, line in enumerate(lines, start=1):
            if self._read(line) or self._read(line[max(0, line.rfind(_START)) :]):
                continue
            if not line.startswith(_START) or line.endswith(b"}"):
                raise ConfigError(f"{path}, line {number}: not an answer of an endpoint; move the file away")
            complain(f"warning: {path}, line {number}: an answer that is cut short, whose question is asked again")
        self._unended = self._read(rest)  # the record is whole, and only the line break is missing
        begins = rest.rstrip(b"\0")[: len(_START)]  # after a loss of power, a file may end in zeros
        if not self._unended and not _START.startswith(begins):  # what is cut short goes: see `open`
            raise ConfigError(f"{path}, line {len(lines) + 1}: not an answer of an endpoint; move the file away")

    def _read(self, line: bytes) -> bool:
        """Takes the answer of a line; False if there is none."""
        try:
            record = json.loads(line)
            key = record.pop("question")
            answer = Answer(**record)
            if not all(isinstance(text, str) for text in (key, answer.text, answer.finish)):
                return False
            if not all(isinstance(n, int | None) for n in (answer.input_tokens, answer.output_tokens, answer.limit)):
                return False
            self.answers[key] = answer
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        return True

    def open(self) -> None:
        """Makes ready to write. Raises ConfigError where that can't be done."""
        try:
            self._file = self.path.open("ab", buffering=0)
            if self._unended:
                append(self._file, b"\n")
            else:
                self._file.truncate(self._whole)
        except OSError as error:
            raise ConfigError(f"{self.path} can't be written: {error.strerror}") from error

    def find(self, question: Mapping[str, Any]) -> Answer | None:
        """The answer, if there is one; none that was cut off at a limit below the question's."""
        answer = self.answers.get(key_of(question))
        if answer is not None and answer.finish == "length" and (answer.limit or 0) < question.get(LIMIT, 0):
            return None
        return answer

    def add(self, question: Mapping[str, Any], answer: Answer) -> None:
        """Files an answer; it outlives a kill of this process. Raises OSError where it can't be written whole."""
        assert self._file is not None, "the journal is not open"
        key, answer = key_of(question), dataclasses.replace(answer, limit=question.get(LIMIT))
        record = {"question": key, **dataclasses.asdict(answer)}
        append(self._file, json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self.answers[key] = answer

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
