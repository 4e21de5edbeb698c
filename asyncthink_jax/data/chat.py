"""Chat templates: the conversation format that a model was trained on, as its release writes it (a Jinja template)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox


class _Generation(jinja2.ext.Extension):
    """`{% generation %} .. {% endgeneration %}`: some templates mark what the model wrote. It stays as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class ChatTemplate:
    """A chat template, compiled in Jinja's sandbox: it is a program that comes with the weights.

    The environment is the one that templates are written for, that of transformers' `apply_chat_template`.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]):
        """`special_tokens`: `bos_token` and so on, which templates name. Raises ValueError for a syntax error."""
        self.source = source
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source, globals=dict(special_tokens))
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"chat template, line {error.lineno}: {error.message}") from None

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
          variables: what else the template asks for.

        Raises ValueError, in one line, if the template refuses the messages or fails.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=enable_thinking,
                **variables,
            )
        except Exception as error:  # whatever a program of somebody else's can raise
            raise ValueError(f"the chat template can't render these messages: {' '.join(str(error).split())}") from None


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
):
    # Jinja's own escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
