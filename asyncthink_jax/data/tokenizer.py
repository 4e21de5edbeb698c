"""A SentencePiece tokenizer, trained at set-up on the task's own texts and saved with the run.

The tags of the protocol are user-defined symbols, so that each is one token. Spaces are kept as they are (no dummy
prefix, nothing removed, no normalization), so `decode(encode(text)) == text` for any text of known characters, and
encoding piece by piece gives the same tokens as encoding the whole, as long as every piece starts a word or a tag.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from io import BytesIO
from itertools import count
from pathlib import Path

import sentencepiece as spm

_SPACE = "\u2581"  # how SentencePiece writes a space
_UNKNOWN = "\u2047".encode()


class Tokenizer:
    """Reads a SentencePiece `.model`. Ids 0 to 3 of a model trained here are pad, eos, bos and unknown."""

    def __init__(self, model: spm.SentencePieceProcessor):
        self.model = model
        self._cache: dict[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Raises FileNotFoundError, or ValueError if the file is no SentencePiece model."""
        data = Path(path).read_bytes()
        model = spm.SentencePieceProcessor()
        try:
            loaded = model.LoadFromSerializedProto(data)
        except RuntimeError:
            loaded = False
        if not loaded:
            raise ValueError(f"{path}: not a SentencePiece model")
        return cls(model)

    @classmethod
    def train(
        cls, texts: Iterable[str], user_symbols: Sequence[str], path: str | Path, vocab_size: int | None = None
    ) -> "Tokenizer":
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

    def encode(self, text: str) -> list[int]:
        return self.model.EncodeAsIds(text)

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        """`encode` of a piece that recurs (a tag, a sub-query, a worker's trace), from a bounded cache of words.

        About ten times as fast as SentencePiece on demonstrations, whose words are few: a text that is all words is put
        together from the tokens of its words. A piece must begin with a space or be a single tag.
        """
        if not piece.startswith(" "):
            return self._encode_word(piece)
        return tuple(token for word in piece[1:].split(" ") for token in self._encode_word(" " + word))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        tokens = self._cache.get(word)
        if tokens is None:
            tokens = tuple(self.encode(word))
            if len(self._cache) < 1 << 16:
                self._cache[word] = tokens
        return tokens

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the tokens, put together from their bytes: just what the automaton reads."""
        return b"".join(self.vocabulary[int(i)] for i in ids).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text: none for pad, eos and bos."""
        return self.vocabulary[token_id]

    @cached_property
    def vocabulary(self) -> list[bytes]:
        """The bytes of every token, see `token_bytes`."""
        model = self.model
        texts = (model.IdToPiece(i).replace(_SPACE, " ").encode() for i in range(self.vocab_size))
        return [
            b"" if model.IsControl(i) or model.IsUnused(i) else _UNKNOWN if model.IsUnknown(i) else text
            for i, text in enumerate(texts)
        ]

    @property
    def vocab_size(self) -> int:
        return self.model.GetPieceSize()

    @property
    def pad_id(self) -> int:
        return self.model.pad_id()

    @property
    def eos_id(self) -> int:
        return self.model.eos_id()

    @property
    def bos_id(self) -> int:
        return self.model.bos_id()

    def piece_to_id(self, piece: str) -> int:
        """The id of a token given as text (a space as " "). Raises KeyError if no single token has that text."""
        token = self.model.PieceToId(piece.replace(" ", _SPACE))
        if self.model.IsUnknown(token):
            raise KeyError(f"no token {piece!r} in the vocabulary")
        return token


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
        byte_fallback=False,
        num_threads=1,
        minloglevel=2,
    )
    return file.getvalue()
