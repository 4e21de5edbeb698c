"""A tokenizer.json of a released model: byte-level BPE (Qwen3, SmolLM2, Llama 3) or SentencePiece's kind (Llama 2).

The `tokenizers` library encodes; what its tokens spell is worked out here, once, as bytes. Byte-level vocabularies
write each byte as a printable character, SentencePiece's write a space as U+2581 and other bytes as `<0x0A>`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from asyncthink_jax.data.tokenizer import Tokenizer, read_config
from asyncthink_jax.untrusted.files import read_json
from asyncthink_jax.untrusted.tokenizer_json import check_definition, panics_refused

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class JsonTokenizer(Tokenizer):
    """Reads a tokenizer.json and what stands beside it.

    Added tokens are special by the file's own mark: those add nothing to the text and are never made of it; the others
    (Qwen3's `<think>`) are text that happens to be one token.
    """

    def __init__(self, definition: dict[str, Any], config: Mapping[str, Any]):
        """`definition`: the content of tokenizer.json. `config`: as `read_config` returns it.

        Raises ValueError for a kind of tokenizer that isn't supported, or one that the library can't read.
        """
        check_definition(definition)
        self._bytes_of = _spelling(definition)
        self._model = _made(definition)
        plain, self._prefix = _without_prefix(definition)
        self._plain = _made(plain) if self._prefix else self._model
        self._added = self._model.get_added_tokens_decoder()
        if "add_bos_token" not in config and "bos_token" in config:
            opening = self._model.encode("").ids[:1]
            config = {**config, "add_bos_token": opening == [self._model.token_to_id(config["bos_token"])]}
        super().__init__(config)

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

    def encode(self, text: str) -> list[int]:
        with panics_refused():
            return self._plain.encode(text, add_special_tokens=False).ids

    def _encode_own(self, text: str, first: bool) -> list[int]:
        model = self._model if first or self._prefix == "always" else self._plain
        with panics_refused():
            return model.encode(text, add_special_tokens=False).ids

    @cached_property
    def controls(self) -> dict[str, int]:
        return {token.content: i for i, token in self._added.items() if token.special}

    def _split(self, text: str) -> list[str]:
        parts = super()._split(text)
        for place in range(1, len(parts), 2):
            token = self._added[self.controls[parts[place]]]
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
        return vocabulary

    @cached_property
    def vocab_size(self) -> int:
        return 1 + max(self._model.get_vocab(with_added_tokens=True).values())

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {text: i for i, text in reversed(list(enumerate(self.vocabulary))) if text}

    def piece_to_id(self, piece: str) -> int:
        try:
            return self._ids[piece.encode()]
        except KeyError:
            raise KeyError(f"no token {piece!r} in the vocabulary") from None

    def _save(self, folder: Path) -> None:
        self._model.save(str(folder / "tokenizer.json"), pretty=False)


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
    decoders = _steps(definition.get("decoder"), "decoders")
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


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The steps of a decoder, normalizer or pre-tokenizer, which is a Sequence, one step, or nothing."""
    if part is None:
        return []
    return part[name] if part.get("type") == "Sequence" else [part]


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
    steps = _steps(plain["normalizer"], "normalizers")
    kept = [step for step in steps if step.get("type") != "Prepend"]
    if len(kept) < len(steps):
        prefix, plain["normalizer"] = "always", {"type": "Sequence", "normalizers": kept} if kept else None
    for step in _steps(plain["pre_tokenizer"], "pretokenizers"):
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space"):
            prefix, step["add_prefix_space"] = "always", False
        # Older files say `add_prefix_space` instead of a scheme, whose default is "always".
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            if step.get("add_prefix_space", True):
                prefix = step.get("prepend_scheme", "always")
            step["prepend_scheme"] = "never"
            step.pop("add_prefix_space", None)
    return plain, prefix
