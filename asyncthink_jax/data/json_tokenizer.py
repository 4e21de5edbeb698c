"""A tokenizer.json of a released model: byte-level BPE (Qwen3, SmolLM2, Llama 3) or SentencePiece's kind (Llama 2).

The `tokenizers` library encodes; what its tokens spell is worked out here, once, as bytes. Byte-level vocabularies
write each byte as a printable character, SentencePiece's write a space as U+2581 and other bytes as `<0x0A>`.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from asyncthink_jax.data.roles import find_roles
from asyncthink_jax.data.tokenizer import Tokenizer, read_config
from asyncthink_jax.protocol.grammar import is_tag
from asyncthink_jax.untrusted.files import read_json
from asyncthink_jax.untrusted.tokenizer_json import check_definition, panics_refused, steps

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class JsonTokenizer(Tokenizer):
    """Reads a tokenizer.json and what stands beside it.

    Added tokens are special by the file's own mark, or by their role: those add nothing to the text and are never made
    of it; the others (Qwen3's `<think>`, a tag of the protocol) are text that happens to be one token.
    """

    def __init__(self, definition: dict[str, Any], config: Mapping[str, Any]):
        """`definition`: the content of tokenizer.json. `config`: as `read_config` returns it.

        Raises ValueError for a kind of tokenizer that isn't supported, one that the library can't read, or one that
        contradicts itself.
        """
        check_definition(definition)
        self._bytes_of = _spelling(definition)
        self.sought = _sought(definition)
        added = {token["content"]: token for token in _added_tokens(definition, config)}
        vocabulary = _vocabulary(definition)
        opening = _opening(definition)

        def text_of(i: int) -> str | None:
            own = next((text for text, token in added.items() if token["id"] == i), None)
            return self._text_of(next((piece for piece, n in vocabulary.items() if n == i), "")) if own is None else own

        roles = find_roles(config, added, vocabulary.__contains__, text_of, opening)
        # The library tells special tokens from text by their mark alone.
        for text in roles.special & vocabulary.keys() - added.keys():
            added[text] = _added(text, vocabulary[text], {})
        for text, token in added.items():
            token["special"] = text in roles.special or (bool(token.get("special")) and not is_tag(text))
        definition = {
            **definition,
            "added_tokens": sorted(added.values(), key=lambda token: token["id"]),
            "model": {**definition["model"], "dropout": None},
        }
        self._model = _made(definition)
        _check_ids(self._model, added, vocabulary)
        plain, self._prefix = _without_prefix(definition)
        self._plain = _made(plain) if self._prefix else self._model
        self._added = self._model.get_added_tokens_decoder()
        self.added_texts = [token.content for token in self._added.values() if not token.special]
        # A byte-level vocabulary writes some texts otherwise; such a token is none of the library's special ones.
        ids = [*config.get("eos_token_id", ()), *config.get("bos_token_id", ())]
        texts = {i: text_of(i) for i in ids if i not in self._added}
        self._other_controls = {text: i for i, text in texts.items() if text}
        super().__init__(config, roles)
        if "add_bos_token" not in config:
            self.begin = "".join(opening)

    def _text_of(self, piece: str) -> str | None:
        """The text of a piece of the vocabulary, None if it is none."""
        try:
            return self._bytes_of(piece).decode() or None
        except UnicodeDecodeError:
            raise ValueError(f"the piece {piece!r}, a part of a character, is said to begin or end texts") from None

    @classmethod
    def load(cls, path: str | Path) -> JsonTokenizer:
        """Raises FileNotFoundError, or ValueError that names the file and what is wrong with it."""
        path = Path(path)
        definition = read_json(path)
        config = read_config(path.parent)
        try:
            return cls(definition, config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except (KeyError, TypeError, AttributeError, IndexError):
            raise ValueError(f"{path}: not laid out as a tokenizer.json is") from None

    def _encode(self, text: str) -> list[int]:
        with panics_refused():
            return self._plain.encode(text, add_special_tokens=False).ids

    def _encode_own(self, text: str, first: bool) -> list[int]:
        model = self._model if first or self._prefix == "always" else self._plain
        with panics_refused():
            return model.encode(text, add_special_tokens=False).ids

    @cached_property
    def controls(self) -> dict[str, int]:
        return {token.content: i for i, token in self._added.items() if token.special} | self._other_controls

    def _split(self, text: str) -> list[str]:
        parts = super()._split(text)
        for place in range(1, len(parts), 2):
            token = self._added.get(self.controls[parts[place]])
            if token is None:
                continue
            if token.lstrip:  # the space beside such a token is a part of it
                parts[place - 1] = parts[place - 1].rstrip()
            if token.rstrip:
                parts[place + 1] = parts[place + 1].lstrip()
        return parts

    @cached_property
    def vocabulary(self) -> list[bytes]:
        vocabulary = [b""] * self.vocab_size
        for piece, i in self._model.get_vocab(with_added_tokens=False).items():
            vocabulary[i] = self._bytes_of(piece)
        for i, token in self._added.items():
            vocabulary[i] = b"" if token.special else token.content.encode()
        for i in self._other_controls.values():
            vocabulary[i] = b""
        return vocabulary

    @cached_property
    def vocab_size(self) -> int:
        return 1 + max(self._model.get_vocab(with_added_tokens=True).values())

    def piece_to_id(self, piece: str) -> int:
        try:
            return self._spellings[piece.encode()]
        except KeyError:
            raise KeyError(f"no token {piece!r} in the vocabulary") from None

    def _save(self, folder: Path) -> None:
        self._model.save(str(folder / "tokenizer.json"), pretty=False)


def _added(text: str, number: int, properties: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `added_tokens` in a tokenizer.json."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": number, "content": text, **{name: bool(properties.get(name)) for name in flags}}


def _added_tokens(definition: dict[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The added tokens of a tokenizer.json, and those that stand in the files beside it alone.

    Raises ValueError for two that have the same text or id.
    """
    added = [dict(token) for token in definition.get("added_tokens") or ()]
    by_text = {token["content"]: token for token in added}
    if len(by_text) < len(added):
        twice = next(token["content"] for token in added if by_text[token["content"]] is not token)
        raise ValueError(f"the added token {twice!r} is there twice")
    for number, token in config.get("added_tokens_decoder", {}).items():
        properties = token if isinstance(token, dict) else {}
        text = properties.get("content", token)
        if text in by_text:
            by_text[text]["special"] = by_text[text].get("special") or properties.get("special")
            if by_text[text]["id"] != int(number):
                raise ValueError(f"the added token {text!r} is {by_text[text]['id']}, and beside the file {number}")
        else:
            added.append(_added(text, int(number), properties))
    ids = {token["id"]: token["content"] for token in added}
    if other := next((token for token in added if ids[token["id"]] != token["content"]), None):
        one, number = ids[other["id"]], other["id"]
        raise ValueError(f"the added tokens {one!r} and {other['content']!r} have the same id, {number}")
    return added


def _vocabulary(definition: dict[str, Any]) -> dict[str, int]:
    """The pieces of the model and their ids; in Unigram models these are places in a list."""
    vocabulary = definition["model"].get("vocab")
    if isinstance(vocabulary, list):
        return {entry[0]: i for i, entry in enumerate(vocabulary)}
    return vocabulary if isinstance(vocabulary, dict) else {}


def _sought(definition: dict[str, Any]) -> list[str]:
    """The texts that a normalizer or a pre-tokenizer looks for."""
    found = [step.get("pattern") for part in ("normalizer", "pre_tokenizer") for step in steps(definition, part)]
    texts = [pattern.get("String") for pattern in found if isinstance(pattern, dict)]
    return [text for text in texts if isinstance(text, str) and text != _SPACE]


def _opening(definition: dict[str, Any]) -> list[str]:
    """The special tokens that its post-processor puts before a text."""
    for step in steps(definition, "post_processor"):
        if step.get("type") == "TemplateProcessing":
            parts, tokens = step.get("single") or [], step.get("special_tokens") or {}
            before = itertools.takewhile(lambda part: "SpecialToken" in part, parts)
            return [text for part in before for text in tokens[part["SpecialToken"]["id"]]["tokens"]]
        if step.get("type") in ("RobertaProcessing", "BertProcessing"):
            return [step["cls"][0]]
    return []


def _check_ids(model: tokenizers.Tokenizer, added: Mapping[str, dict[str, Any]], vocabulary: dict[str, int]) -> None:
    """Raises ValueError where two tokens have one id, or the library gives a token another one than its file."""
    if len(set(vocabulary.values())) < len(vocabulary):
        seen: dict[int, str] = {}
        one, other = next((seen[i], text) for text, i in vocabulary.items() if seen.setdefault(i, text) != text)
        raise ValueError(f"{one!r} and {other!r} have the same id, {vocabulary[one]}")
    for text, token in added.items():
        if (number := model.token_to_id(text)) != token["id"]:
            raise ValueError(
                f"the added token {text!r} has the id {token['id']}, and the tokenizers library reads it as {number}: "
                "ids must follow one another, and those of the vocabulary be kept"
            )


def _made(definition: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        with panics_refused():
            model = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises no type of its own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the tokenizers library can't read it ({reason})") from None
    model.no_truncation()
    model.no_padding()
    model.encode_special_tokens = True  # special tokens in a text are text; `encode_prompt` finds its own
    return model


def _spelling(definition: dict[str, Any]) -> Callable[[str], bytes]:
    """How a piece of the vocabulary spells bytes, by the decoder. Raises ValueError for kinds not supported."""
    model = definition["model"]
    decoders = steps(definition, "decoder")
    kinds = [step.get("type") for step in decoders]
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ValueError("a vocabulary that marks the inside or the end of words is not supported")
    if kinds == ["ByteLevel"]:
        return _byte_level
    spaces = [step for step in decoders if step.get("pattern") == {"String": _SPACE} and step.get("content") == " "]
    if kinds == ["Metaspace"] or spaces:
        return _sentencepiece if model.get("byte_fallback") else lambda piece: piece.replace(_SPACE, " ").encode()
    raise ValueError(
        f"a {model.get('type')} tokenizer with the decoder {' + '.join(map(str, kinds)) or None} is not supported; "
        "byte-level BPE and SentencePiece's kind are"
    )


def _byte_alphabet() -> dict[str, int]:
    """The printable character for each byte: itself where it is one, else the next from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _byte_level(piece: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in piece)
    except KeyError:  # a token that stands in the vocabulary as it is, as the decoder of `tokenizers` takes it
        return piece.encode()


def _sentencepiece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()


def _without_prefix(definition: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A tokenizer that puts no space before a text, and where this one does: "", "first" (of a prompt) or "always"."""
    plain = {**definition, **copy.deepcopy({name: definition.get(name) for name in ("normalizer", "pre_tokenizer")})}
    prefix = ""
    found = steps(plain, "normalizer")
    kept = [step for step in found if step.get("type") != "Prepend"]
    if len(kept) < len(found):  # a Sequence of Sequences is the Sequence of all their steps
        prefix, plain["normalizer"] = "always", {"type": "Sequence", "normalizers": kept} if kept else None
    for step in steps(plain, "pre_tokenizer"):
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space"):
            prefix, step["add_prefix_space"] = "always", False
        # Older files say `add_prefix_space` instead of a scheme, whose default is "always".
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            if step.get("add_prefix_space", True):
                prefix = step.get("prepend_scheme", "always")
            step["prepend_scheme"] = "never"
            step.pop("add_prefix_space", None)
    return plain, prefix
