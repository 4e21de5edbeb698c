"""A token for every byte: in place of a tokenizer that isn't here, where nothing but shapes matters."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from asyncthink_jax.data.tokenizer import Tokenizer


class ByteTokenizer(Tokenizer):
    """Tokens 0..255 are the bytes; 256 ends a text. Every text can be encoded, and no tag is a single token."""

    def __init__(self) -> None:
        super().__init__({"eos_token": "<eos>"})

    def _encode(self, text: str) -> list[int]:
        """The bytes of its UTF-8."""
        return list(text.encode())

    def _encode_own(self, text: str, first: bool) -> list[int]:
        return self.encode(text)

    @property
    def controls(self) -> Mapping[str, int]:
        return {"<eos>": 256}

    @cached_property
    def vocabulary(self) -> list[bytes]:
        return [bytes([n]) for n in range(256)] + [b""]

    @property
    def vocab_size(self) -> int:
        return 257

    def piece_to_id(self, piece: str) -> int:
        data = piece.encode()
        if len(data) != 1:
            raise KeyError(piece)
        return data[0]

    def _save(self, folder: Path) -> None:
        raise NotImplementedError("a stand-in isn't kept")
