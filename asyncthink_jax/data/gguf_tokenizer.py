"""The tokenizer inside a GGUF file, whose metadata holds all of it: pieces, merges or scores, and the chat template.

Kind "gpt2" (byte-level BPE) becomes a tokenizer.json, kind "llama" (SentencePiece) a SentencePiece model, and from
there on nothing is different. What a GGUF only names is how a text is cut into words before the merges
(`tokenizer.ggml.pre`): those of SmolLM2, Qwen2 and 3, and Llama 3 are here.
"""

from __future__ import annotations

import enum
import itertools
from pathlib import Path
from typing import Any

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2

from asyncthink_jax import stated
from asyncthink_jax.data.json_tokenizer import JsonTokenizer
from asyncthink_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from asyncthink_jax.data.tokenizer import Tokenizer
from asyncthink_jax.untrusted.gguf import read_header

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MODERN = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


# For each `tokenizer.ggml.pre`: how words are cut, the normalizer, and whether a word that is a token is not merged up.
# Qwen's own tokenizer.json composes characters (NFC), which a GGUF doesn't say but the model was trained with.
_KINDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None, bool]] = {
    "smollm": ([{"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}], None, False),
    "qwen2": ([_split(_MODERN % r"\p{N}"), _BYTES], {"type": "NFC"}, False),
    "llama-bpe": ([_split(_MODERN % r"\p{N}{1,3}"), _BYTES], None, True),
}


# Arrays of a vocabulary, an entry for each token (merges aside).
_ARRAYS: dict[str, type | tuple[type, ...]] = {"tokens": str, "token_type": int, "scores": (int, float), "merges": str}


class _Type(enum.IntEnum):
    """`tokenizer.ggml.token_type`, which are also the types of SentencePiece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def load_gguf(path: Path) -> Tokenizer:
    """Raises FileNotFoundError, or ValueError in one line for a file or a kind of tokenizer that can't be read."""
    prefix = "tokenizer.ggml."
    fields = {
        name.removeprefix(prefix): value
        for name, value in read_header(path).metadata.items()
        if name.startswith(prefix) or name == "tokenizer.chat_template"
    }
    try:
        kind = fields.get("model")
        if kind not in ("gpt2", "llama"):
            raise ValueError(f"a GGUF tokenizer of the kind {kind!r} is not supported; 'gpt2' and 'llama' are")
        missing = {"tokens", "token_type", "merges" if kind == "gpt2" else "scores"} - set(fields)
        if missing:
            raise ValueError(f"the GGUF has no {prefix}{min(missing)}")
        _check_types(fields)
        return _byte_pairs(fields) if kind == "gpt2" else _sentencepiece(fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_types(fields: dict[str, Any]) -> None:
    """Raises ValueError for a value of another type, and for counts that differ."""
    tokens = len(fields["tokens"]) if isinstance(fields["tokens"], list) else 0
    for name, value in fields.items():
        own = f"tokenizer.ggml.{name}"
        if name in _ARRAYS:
            if not isinstance(value, list) or not all(isinstance(one, _ARRAYS[name]) for one in value):
                raise ValueError(f"{own} is no array of {'texts' if _ARRAYS[name] is str else 'numbers'}")
            if name != "merges" and len(value) != tokens:
                raise ValueError(f"{own} has {len(value)} entries for {tokens} tokens")
        elif name in ("pre", "tokenizer.chat_template") and not isinstance(value, str):
            raise ValueError(f"{own} is no text")
        elif name in ("add_bos_token", "add_space_prefix", "remove_extra_whitespaces") and not isinstance(value, bool):
            raise ValueError(f"{own} is {value!r}, neither true nor false")
    if wrong := next((merge for merge in fields.get("merges", ()) if " " not in merge[1:-1]), None):
        raise ValueError(f"tokenizer.ggml.merges has {wrong!r}, no two pieces with a space between")


def _byte_pairs(fields: dict[str, Any]) -> JsonTokenizer:
    pre = fields.get("pre", "default")
    if pre not in _KINDS:
        raise ValueError(
            f"words are cut as {pre!r} (tokenizer.ggml.pre), which is not supported; {', '.join(_KINDS)} are"
        )
    cuts, normalizer, whole_words = _KINDS[pre]
    typed = list(zip(fields["tokens"], fields["token_type"], strict=True))
    places: dict[str, int] = {}
    for i, (token, kind) in enumerate(typed):
        if kind != _Type.UNUSED and places.setdefault(token, i) != i:
            raise ValueError(f"tokenizer.ggml.tokens has {token!r} twice, {places[token]} and {i}")
    # Unused tokens stand for the spare rows of the model.
    vocabulary = {token: i for i, (token, kind) in enumerate(typed) if kind != _Type.UNUSED}
    added = [
        {
            **{"id": i, "content": token, "special": kind != _Type.USER_DEFINED},
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for i, (token, kind) in enumerate(typed)
        if kind in (_Type.UNKNOWN, _Type.CONTROL, _Type.USER_DEFINED)
    ]
    config = _config(fields, begins=pre == "llama-bpe")
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
        "post_processor": _opening(config, vocabulary) if config["add_bos_token"] else None,
        "decoder": {**_BYTES, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole_words,
            "vocab": vocabulary,
            "merges": [merge.split(" ", 1) for merge in fields["merges"]],
        },
    }
    return JsonTokenizer(definition, config)


def _opening(config: dict[str, Any], vocabulary: dict[str, int]) -> dict[str, Any] | None:
    """What puts bos before a text, for other programs that read the file; we do it ourselves."""
    bos = config.get("bos_token")
    if bos not in vocabulary:
        return None
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    opening = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [opening, texts[0]],
        "pair": [opening, *texts],
        "special_tokens": {bos: {"id": bos, "ids": [vocabulary[bos]], "tokens": [bos]}},
    }


def _sentencepiece(fields: dict[str, Any]) -> SentencePieceTokenizer:
    proto = sentencepiece_model_pb2.ModelProto()
    kinds = fields["token_type"]
    for token, score, kind in zip(fields["tokens"], fields["scores"], kinds, strict=True):
        proto.pieces.add(piece=token, score=score, type=kind)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = _Type.BYTE in kinds
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = fields.get("add_space_prefix", True)
    proto.normalizer_spec.remove_extra_whitespaces = fields.get("remove_extra_whitespaces", False)
    config = _config(fields, begins=True)
    model = spm.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(proto.SerializeToString())
    except RuntimeError as error:
        raise ValueError(f"SentencePiece can't read its vocabulary ({' '.join(str(error).split())})") from None
    return SentencePieceTokenizer(model, config)


def _config(fields: dict[str, Any], begins: bool) -> dict[str, Any]:
    """As `read_config`. `begins`: whether texts begin with bos where the file doesn't say."""

    def ids(*names: str) -> list[int]:
        keys = [f"{name}_token_id" for name in names]
        found = [stated.token_ids(fields.get(key), f"tokenizer.ggml.{key}", len(fields["tokens"])) for key in keys]
        return list(dict.fromkeys(itertools.chain(*found)))

    config: dict[str, Any] = {}
    ends = ids("eot", "eos", "eom")
    for name, found in (("bos", ids("bos")), ("eos", ends), ("pad", ids("padding")), ("unk", ids("unknown"))):
        if found and fields["token_type"][found[0]] == _Type.NORMAL:  # its text is spelled in the vocabulary's way
            config[f"{name}_token_id"] = found[:1]
        elif found:
            config[f"{name}_token"] = fields["tokens"][found[0]]
    if ends:
        config["eos_token_id"] = ends
    config["add_bos_token"] = bool(fields.get("add_bos_token", begins))
    if fields.get("tokenizer.chat_template"):
        config["chat_template"] = fields["tokenizer.chat_template"]
    return config
