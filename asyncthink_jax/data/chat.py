"""Chat templates: the conversation format that a model was trained on, as its release writes it (a Jinja template)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from asyncthink_jax.data import chat_worker

MOST_SOURCE = 1 << 18  # characters of a template; known ones have up to 20,000
SECONDS = 5  # of processor time for a rendering, which takes milliseconds
_PATIENCE_S = 300  # on the clock, for a machine that is busy: the limit that counts is that of processor time
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TZ")  # of this process's environment


class ChatTemplate:
    """A chat template. It is a program that comes with the weights, so it never runs in this process.

    It runs in a process of its own (`chat_worker.py`), which takes a tenth of a second. That one has Jinja's sandbox,
    limits of time, memory and output, and an environment with nothing in it.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]):
        """`special_tokens`: `bos_token` and so on, which templates name. Raises ValueError for a syntax error."""
        self.source, self._special_tokens = source, dict(special_tokens)
        if len(source) > MOST_SOURCE:
            raise ValueError(f"chat template: {len(source)} characters, expected at most {MOST_SOURCE}")
        try:
            chat_worker.environment().parse(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"chat template, line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise ValueError("chat template: too many expressions within each other") from None

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
        **variables: Any,
    ) -> str:
        """A conversation as the text that the model reads.

        Args:
          messages: each with `role` (system, user, assistant) and `content`.
          add_generation_prompt: the model's turn is opened at the end.
          enable_thinking: False tells models that think before they answer (Qwen3) not to: what an organizer writes IS
            its thinking, and tags within such a block would not be its own text. Other templates don't ask.
          variables: what else the template asks for (values that JSON has).

        Raises ValueError, in one line, if the template refuses the messages, fails, or takes more than it may.
        """
        asked = {"add_generation_prompt": add_generation_prompt, "enable_thinking": enable_thinking}
        (reply,) = self._replies([{"messages": [dict(message) for message in messages], **asked, **variables}])
        if "text" not in reply:
            raise ValueError(f"the chat template can't render these messages: {reply['error']}")
        return reply["text"]

    def render_all(self, chats: Sequence[Sequence[Mapping[str, str]]]) -> list[str | None]:
        """Several conversations in one process; None for those that the template refuses.

        The model's turn is opened where the last message is not its own.
        """
        asked = [
            {"messages": [dict(one) for one in chat], "add_generation_prompt": chat[-1]["role"] != "assistant"}
            for chat in chats
        ]
        return [reply.get("text") for reply in self._replies([{**one, "enable_thinking": False} for one in asked])]

    def _replies(self, variables: list[dict[str, Any]]) -> list[dict[str, str]]:
        variables = [{**one, "tools": None, "documents": None} for one in variables]
        return _asked({"source": self.source, "special_tokens": self._special_tokens, "variables": variables})


def _asked(request: Mapping[str, Any]) -> list[dict[str, str]]:
    """The replies of the worker to a request."""
    failed = lambda reason: [{"error": reason}] * len(request["variables"])  # noqa: E731
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        done = subprocess.run(
            # Neither the current folder nor what a site's set-up imports; the packages are found where they are here.
            [sys.executable, "-P", "-S", "-X", "utf8", chat_worker.__file__, str(SECONDS)],
            input=json.dumps(request).encode(),
            capture_output=True,
            env={**passed_on, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is meant for this process, which ends the worker with itself
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        return failed(f"no answer within {_PATIENCE_S} s")
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return failed(f"it takes more than {SECONDS} s of processor time")
    if done.returncode:
        words = done.stderr.decode(errors="replace").split("\n")
        return failed(f"the process ended with exit code {done.returncode} {words[-2] if words[1:] else ''}".strip())
    return json.loads(done.stdout)
