"""The fields of a config as dotted paths: out of text, out of JSON, of the right type, and with the nearest right name.

A section is a dataclass in a field of another one. Which fields it has is asked of the value, not of the declared type:
a field may hold any subclass, as `Config.task` does. Everything that is wrong raises ConfigError with one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

LARGEST = 3.4028234e38  # a float32 of more is infinite


class ConfigError(ValueError):
    """A config that cannot be used; the message is one line for the reader.

    `exit_code`: 2 for what would go wrong again, 1 for what may have been passing.
    """

    exit_code = 2

    def __init__(self, message: str, exit_code: int | None = None):
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


def hints(cls: Any) -> dict[str, Any]:
    """Field name -> resolved type."""
    resolved = typing.get_type_hints(cls)
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls)}


def classes(cls: Any) -> Iterator[Any]:
    """The dataclass and those of its fields, and of theirs."""
    yield cls
    for hint in hints(cls).values():
        if dataclasses.is_dataclass(hint):
            yield from classes(hint)


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, type) of every field that is no section."""
    for name, hint in hints(type(section)).items():
        if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
            yield f"{prefix}{name}", hint
            continue
        value = getattr(section, name)
        if not isinstance(value, hint):
            raise ConfigError(f"config field {prefix + name!r}: {value!r} is not a {hint.__name__}")
        yield from leaves(value, f"{prefix}{name}.")


def get(section: Any, path: str) -> Any:
    """The value at a dotted path."""
    for key in path.split("."):
        section = getattr(section, key)
    return section


def override(section: Any, path: str, text: str) -> Any:
    """`section` with the field at `path` replaced by the value that `text` spells."""
    return _override(section, path.split("."), text, path, [name for name, _ in leaves(section)])


def _override(section: Any, keys: list[str], text: str, path: str, names: list[str]) -> Any:
    key, *deeper = keys
    known = hints(type(section))
    if key not in known:
        raise ConfigError(f"config has no field {path!r}{did_you_mean(path, names, key)}")
    value = getattr(section, key)
    if deeper:
        if not dataclasses.is_dataclass(value):
            raise ConfigError(f"config field {path!r}: {key} is a value, not a section")
        return dataclasses.replace(section, **{key: _override(value, deeper, text, path, names)})
    if dataclasses.is_dataclass(value):
        raise ConfigError(
            f"config field {path!r} is a section; name one of its fields: {', '.join(hints(type(value)))}"
        )
    return dataclasses.replace(section, **{key: parse(text, known[key], path)})


def did_you_mean(wrong: str, names: Iterable[str], leaf: str | None = None) -> str:
    """ "; did you mean 'X'?" with the nearest of the names, or nothing where none is near."""
    names = list(names)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if not near and leaf:  # the right field in the wrong section: rl.slots for rollout.slots
        near = [name for name in names if name.rpartition(".")[2] == leaf]
    return f"; did you mean {near[0]!r}?" if near else ""


def type_name(hint: Any, value: Any = None) -> str:
    """A type in the words of an error line; `value` is what isn't of it."""
    if hint is float and isinstance(value, int | float):
        return "a finite number (of float32)"
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(hint, str(hint).replace("typing.", ""))


def parse(text: str, hint: Any, path: str) -> Any:
    """The value that `text` spells for a field of type `hint`."""
    text = text.strip()
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    wrong = ConfigError(f"config field {path!r}: {text!r} is not {type_name(hint)}")
    if origin is Literal:
        by_text = {str(choice): choice for choice in arguments}
        if text in by_text:
            return by_text[text]
        raise ConfigError(f"{wrong}{did_you_mean(text, by_text)}")
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() in ("none", "null"):
            return None
        for argument in arguments:
            try:
                return parse(text, argument, path)
            except ConfigError:
                continue
        raise wrong
    if origin is tuple:
        items = [item for item in text.strip("()[]").split(",") if item.strip()]
        item_hints = [arguments[0]] * len(items) if arguments[1:] == (...,) else list(arguments)
        if len(items) != len(item_hints):
            raise wrong
        return tuple(parse(item, item_hint, path) for item, item_hint in zip(items, item_hints, strict=True))
    if hint is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise wrong
        return words[text.lower()]
    if hint is str:
        return text
    if hint in (int, float):
        try:
            value = hint(text)
        except ValueError:
            raise wrong from None
        if not fits(value, hint):
            raise ConfigError(f"config field {path!r}: {text[:40]!r} is not {type_name(hint, value)}")
        return value
    raise wrong


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; a whole number is a number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is tuple:
        item_hints = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        return isinstance(value, tuple) and len(value) == len(item_hints) and all(map(fits, value, item_hints))
    if hint is float:  # neither NaN nor an infinity, also in float32
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, hint)


def from_dict(cls: Any, data: Any, chosen: Mapping[str, Any], prefix: str = "") -> Any:
    """The section that `dataclasses.asdict` made `data` of; `chosen` has the class for a path that may hold several."""
    if not isinstance(data, dict):
        raise ConfigError(f"saved config: {prefix.rstrip('.') or 'the whole'} is not a section")
    known = hints(cls)
    for key in data:
        if key not in known:
            raise ConfigError(f"saved config: no field {prefix + key!r}{did_you_mean(key, known)}")
    values = {}
    for key, value in data.items():
        if dataclasses.is_dataclass(known[key]):
            values[key] = from_dict(chosen.get(prefix + key, known[key]), value, chosen, f"{prefix}{key}.")
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
            if not fits(values[key], known[key]):
                raise ConfigError(f"saved config: {prefix}{key} is {value!r}, not {type_name(known[key], values[key])}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"saved config: {' '.join(str(error).split())}") from error
