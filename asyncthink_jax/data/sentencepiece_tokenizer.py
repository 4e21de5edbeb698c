"""A SentencePiece `.model`: that of a release (Llama 2), or one trained at set-up on the task's own texts.

Of one trained here the tags of the protocol are user-defined symbols, so that each is one token. Spaces are kept as
they are (no dummy prefix, nothing removed, no normalization), so `decode(encode(text)) == text` for any text of known
characters, and encoding piece by piece gives the same tokens as encoding the whole, as long as every piece starts a
word or a tag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from typing import Any

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2

from asyncthink_jax.data.roles import Roles, find_roles
from asyncthink_jax.data.tokenizer import Tokenizer, read_config
from asyncthink_jax.untrusted.files import MOST_BYTES, check_file
from asyncthink_jax.untrusted.tokenizer_json import longest_of_charsmap

_SPACE = "\u2581"  # how SentencePiece writes a space
_UNKNOWN = "\u2047".encode()
_LONGEST = 1000  # bytes that the normalizer may make of a character; NFKC makes up to 33
_Piece = sentencepiece_model_pb2.ModelProto.SentencePiece


class _Cache(dict[str, tuple[int, ...]]):
    """The tokens of recurring texts: of the first `most` texts."""

    def __init__(self, encode: Callable[[str], tuple[int, ...]], most: int = 1 << 16):
        super().__init__()
        self._encode, self._most = encode, most

    def __missing__(self, text: str) -> tuple[int, ...]:
        tokens = self._encode(text)
        if len(self) < self._most:
            self[text] = tokens
        return tokens


class SentencePieceTokenizer(Tokenizer):
    """Reads a SentencePiece `.model`. Ids 0 to 3 of a model trained here are pad, eos, bos and unknown."""

    def __init__(self, model: spm.SentencePieceProcessor, config: Mapping[str, Any] | None = None):
        """`config`: as `read_config` returns it. Raises ValueError for added tokens, which a `.model` doesn't have."""
        config = config or {}
        beyond = [int(i) for i in config.get("added_tokens_decoder", {}) if int(i) >= model.GetPieceSize()]
        if beyond:
            raise ValueError(
                f"tokenizer_config.json adds tokens ({min(beyond)}, ..) to the {model.GetPieceSize()} of the "
                "SentencePiece model; such a tokenizer is read from its tokenizer.json"
            )
        for i, token in config.get("added_tokens_decoder", {}).items():
            text = token["content"] if isinstance(token, dict) else token
            if model.IdToPiece(int(i)) != text.replace(" ", _SPACE):
                raise ValueError(f"token {i} is {text!r} beside the model, and {model.IdToPiece(int(i))!r} in it")
        ids = {"bos": model.bos_id(), "eos": model.eos_id(), "pad": model.pad_id()}
        config = {**{f"{name}_token": model.IdToPiece(i) for name, i in ids.items() if i >= 0}, **config}
        proto = sentencepiece_model_pb2.ModelProto.FromString(model.serialized_model_proto())
        roles = _roles(proto, config)
        model = _with_controls(model, proto, roles)
        kinds = {piece.piece: piece.type for piece in proto.pieces}
        self.closed = _Piece.BYTE not in kinds.values() and kinds.get("<ANSWER>") == _Piece.USER_DEFINED
        self.added_texts = [text for text, kind in kinds.items() if kind == _Piece.USER_DEFINED]
        self.model = model
        self._plain = _without_prefix(model)
        self._tags = _Cache(lambda tag: tuple(self.encode(tag)))
        self._words = _Cache(lambda word: tuple(self.encode(" " + word)))
        super().__init__(config, roles)

    @classmethod
    def load(cls, path: str | Path) -> SentencePieceTokenizer:
        """Raises FileNotFoundError, or ValueError if the file is no SentencePiece model."""
        path = Path(path)
        check_file(path)
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, expected at most {MOST_BYTES}")
        data = path.read_bytes()
        model = spm.SentencePieceProcessor()
        try:
            loaded = model.LoadFromSerializedProto(data)
        except RuntimeError:
            loaded = False
        if not loaded:
            raise ValueError(f"{path}: not a SentencePiece model")
        _check_growth(data, path)
        config = read_config(path.parent)
        try:
            return cls(model, config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def train(
        cls, texts: Iterable[str], user_symbols: Sequence[str], path: str | Path, vocab_size: int | None = None
    ) -> SentencePieceTokenizer:
        """Trains on `texts`, writes `path` and returns the tokenizer. The same texts give the same model.

        `user_symbols` become one token each. Without `vocab_size` the vocabulary is the smallest that byte-pair merges
        reach in which every word (with the space before it) is one token, which is what a task of few words wants.
        """
        texts = list(texts)
        words = {word for text in texts for word in _words(text, user_symbols)}
        least = len(words | set("".join(words))) + len(user_symbols) + 4
        for size in [vocab_size] if vocab_size else count(least):  # some 10 tries of 0.03 s for the demo's task
            data = _trained(texts, user_symbols, size)
            model = spm.SentencePieceProcessor(model_proto=data)
            if vocab_size or all(len(model.EncodeAsIds(word)) == 1 for word in words):
                break
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return cls(model)

    def _encode(self, text: str) -> list[int]:
        return self._plain.EncodeAsIds(text)

    def _encode_own(self, text: str, first: bool) -> list[int]:
        return self.model.EncodeAsIds(text)

    def knows(self, text: str) -> bool:
        """Whether the text can be said with the vocabulary: no part of it is encoded as the unknown token."""
        return self.model.unk_id() not in self.encode(text)

    def lacks(self, texts: Iterable[str]) -> list[str]:
        """The words of these texts, with the space before them, that are not one token each; sorted."""
        words = {word for text in texts for word in _words(text, ())}
        return sorted(word for word in words if len(self.encode(word)) != 1 or not self.knows(word))

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        """`encode` of a piece that recurs (a tag, a sub-query, a worker's trace), from a bounded cache of words.

        About ten times as fast as SentencePiece on demonstrations, whose words are few: a text that is all words is put
        together from the tokens of its words. A piece must begin with a space or be a single tag.
        """
        if not piece.startswith(" ") or "  " in piece:  # some vocabularies have tokens of several spaces
            return self._tags[piece]
        return tuple(chain.from_iterable(map(self._words.__getitem__, piece[1:].split(" "))))

    @cached_property
    def controls(self) -> dict[str, int]:
        return {self.model.IdToPiece(i): i for i in range(self.vocab_size) if self.model.IsControl(i)}

    @cached_property
    def vocabulary(self) -> list[bytes]:
        return [self._spelled(i) for i in range(self.vocab_size)]

    def _spelled(self, i: int) -> bytes:
        model, piece = self.model, self.model.IdToPiece(i)
        if model.IsControl(i) or model.IsUnused(i):
            return b""
        if model.IsUnknown(i):
            return _UNKNOWN
        return bytes([int(piece[3:5], 16)]) if model.IsByte(i) else piece.replace(_SPACE, " ").encode()

    @property
    def vocab_size(self) -> int:
        return self.model.GetPieceSize()

    def piece_to_id(self, piece: str) -> int:
        token = self.model.PieceToId(piece.replace(" ", _SPACE))
        if self.model.IsUnknown(token):
            raise KeyError(f"no token {piece!r} in the vocabulary")
        return token

    def _save(self, folder: Path) -> None:
        (folder / "tokenizer.model").write_bytes(self.model.serialized_model_proto())


def _check_growth(data: bytes, path: Path) -> None:
    """Raises ValueError for a model whose normalizer puts a long text in the place of a character."""
    charsmap = sentencepiece_model_pb2.ModelProto.FromString(data).normalizer_spec.precompiled_charsmap
    if longest_of_charsmap(charsmap) > _LONGEST:
        raise ValueError(f"{path}: its normalizer makes {longest_of_charsmap(charsmap)} bytes of one character")


def _roles(proto: sentencepiece_model_pb2.ModelProto, config: Mapping[str, Any]) -> Roles:
    pieces = {piece.piece: piece.type for piece in proto.pieces}

    def text_of(i: int) -> str | None:
        if i >= len(proto.pieces):
            return None
        piece = proto.pieces[i]
        if piece.type == _Piece.BYTE:
            raise ValueError(f"token {i} ({piece.piece}) begins or ends texts, and is ordinary text as well")
        return piece.piece

    apart = [piece for piece, kind in pieces.items() if kind in (_Piece.CONTROL, _Piece.USER_DEFINED)]
    return find_roles(config, apart, pieces.__contains__, text_of)


def _with_controls(
    model: spm.SentencePieceProcessor, proto: sentencepiece_model_pb2.ModelProto, roles: Roles
) -> spm.SentencePieceProcessor:
    """The same model, but what plays a role is a control token in it: no text is ever encoded to one."""
    changed = [p for p in proto.pieces if p.piece in roles.special and p.type in (_Piece.NORMAL, _Piece.USER_DEFINED)]
    if not changed:
        return model
    for piece in changed:
        piece.type = _Piece.CONTROL
    return spm.SentencePieceProcessor(model_proto=proto.SerializeToString())


def _without_prefix(model: spm.SentencePieceProcessor) -> spm.SentencePieceProcessor:
    """The same model, but with no space put before a text."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.serialized_model_proto())
    if not proto.normalizer_spec.add_dummy_prefix:
        return model
    proto.normalizer_spec.add_dummy_prefix = False
    return spm.SentencePieceProcessor(model_proto=proto.SerializeToString())


def _words(text: str, user_symbols: Sequence[str]) -> list[str]:
    """The words of a text, each with the space before it, the user symbols taken out."""
    for symbol in user_symbols:
        text = text.replace(symbol, "\n")
    return [" " * (i > 0) + word for part in text.split("\n") for i, word in enumerate(part.split(" ")) if word]


def _trained(texts: Sequence[str], user_symbols: Sequence[str], vocab_size: int) -> bytes:
    file = BytesIO()
    spm.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=file,
        model_type="bpe",  # unigram drops words of several characters that are no more frequent than those characters
        vocab_size=vocab_size,
        user_defined_symbols=list(user_symbols),
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        unk_surface=_UNKNOWN.decode(),
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,  # a word of letters and digits (r2) is one token too
        byte_fallback=False,
        num_threads=1,
        minloglevel=2,
    )
    return file.getvalue()
