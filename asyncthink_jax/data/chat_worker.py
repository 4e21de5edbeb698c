"""The process behind `chat.py`: renders one chat template, within limits, and ends.

Its argument is the processor time that it may take, in seconds. Standard input is a JSON object: `source`,
`special_tokens`, and `variables`, a list of those of each rendering. Standard output is a list of objects: `text`, or
`error`.
Whatever a template does, it takes so much processor time and memory at most, and finds nothing of its user's in here.
The file is run as it is, and imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

MEMORY = 1 << 29  # bytes of address space
MOST = 1 << 20  # characters of the text
_MOST_REASON = 300  # characters of an error


class _Generation(jinja2.ext.Extension):
    """`{% generation %} .. {% endgeneration %}`: some templates mark what the model wrote. It stays as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def environment() -> jinja2.Environment:
    """The one that templates are written for, that of transformers' `apply_chat_template`, in Jinja's sandbox."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return made


def main() -> None:
    _limit(int(sys.argv[1]))
    request = json.load(sys.stdin)
    replies = []
    for variables in request["variables"]:
        try:
            replies.append({"text": _rendered(request["source"], request["special_tokens"], variables)})
        except (
            Exception
        ) as error:  # whatever a program of somebody else's can raise, RecursionError and MemoryError too
            replies.append({"error": (" ".join(str(error).split()) or type(error).__name__)[:_MOST_REASON]})
    json.dump(replies, sys.stdout)


def _rendered(source: str, special_tokens: dict[str, str], variables: dict[str, Any]) -> str:
    template = environment().from_string(source, globals=special_tokens)
    parts, length = [], 0
    for part in template.generate(**variables):
        length += len(part)
        if length > MOST:
            raise ValueError(f"its text has more than {MOST} characters")
        parts.append(part)
    return "".join(parts)


def _limit(seconds: int) -> None:
    """Processor time and memory, where the system has such limits; no file is written, no core dumped."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {"CPU": seconds, "AS": MEMORY, "FSIZE": 0, "CORE": 0}
    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS limits no address space
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
):
    # Jinja's own escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    main()
