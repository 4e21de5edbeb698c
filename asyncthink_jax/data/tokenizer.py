"""What the project asks of a tokenizer, and what a release of a model says of its own.

Two kinds of text are encoded in two ways. Text of a user or of a model (`encode`) is never parsed for special tokens:
`<|im_end|>` typed into a question is those ten characters. The parts of a prompt that are the project's or the chat
template's own (`encode_prompt`) are parsed for them.

The end of a turn. A release may name several end-of-text tokens; `eos_id` is the one that ends a turn of a chat, where
there is one: `eos_token` of tokenizer_config.json (`<|im_end|>` of Qwen3, `<|eot_id|>` of Llama 3 Instruct), else that
of special_tokens_map.json, else the first `eos_token_id` of generation_config.json, whose first is not always the
chat's; in a GGUF `tokenizer.ggml.eot_token_id`, else `tokenizer.ggml.eos_token_id`. bos and pad likewise; each is None
where the release names none.
"""

from __future__ import annotations

import abc
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from asyncthink_jax.data.chat import ChatTemplate
from asyncthink_jax.protocol.grammar import Grammar, Tag, tag_literal
from asyncthink_jax.protocol.prompts import Prompts, base_prompts, chat_prompts
from asyncthink_jax.untrusted.files import read_json

CONFIG = "tokenizer_config.json"
SPECIAL = ("bos", "eos", "pad", "unk")


class Tokenizer(abc.ABC):
    """A tokenizer over bytes: what its tokens spell is `vocabulary`, whatever it is made of.

    Attributes:
      pad_id, eos_id, bos_id: None where there is none.
      begin: the text of the special token that every text begins with ("" = none), for prompts without a chat template.
      chat_template: how the model was taught to read a conversation, None for a base model.
    """

    def __init__(self, config: Mapping[str, Any]):
        """`config`: what `read_config` returns. The subclass must know `controls` and `piece_to_id` by now.

        Raises ValueError for a special token that the vocabulary doesn't have, or a chat template with a mistake in it.
        """
        self._config = dict(config)
        self.bos_id, self.eos_id, self.pad_id = (self._named(name) for name in ("bos", "eos", "pad"))
        source = config.get("chat_template")
        names = {f"{name}_token": config[f"{name}_token"] for name in SPECIAL if config.get(f"{name}_token")}
        self.chat_template = ChatTemplate(source, names) if source else None
        self.begin = config.get("bos_token", "") if config.get("add_bos_token") else ""

    def _named(self, name: str) -> int | None:
        text, number = self._config.get(f"{name}_token"), self._config.get(f"{name}_token_id")
        if text is None:
            if number is not None and not 0 <= number < self.vocab_size:
                raise ValueError(f"{name}_token_id is {number}, the tokenizer has {self.vocab_size} tokens")
            return number
        try:
            return self.controls[text] if text in self.controls else self.piece_to_id(text)
        except KeyError:
            raise ValueError(f"{name}_token is {text!r}, which is no token of the tokenizer") from None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """All tokens that end a text, a turn or a message; `eos_id` first."""
        return () if self.eos_id is None else (self.eos_id,)

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of some text of a user or a model; no special token comes of it, and no space is put before it."""

    @abc.abstractmethod
    def _encode_own(self, text: str, first: bool) -> list[int]:
        """As `encode`, but with the space before it that the model was trained with, if it was.

        `first`: nothing stands before the text, else a special token does.
        """

    @property
    @abc.abstractmethod
    def controls(self) -> Mapping[str, int]:
        """The special tokens, by their text."""

    @property
    @abc.abstractmethod
    def vocabulary(self) -> list[bytes]:
        """The bytes of every token, see `token_bytes`."""

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Tokens, the special and the added ones included. A model may have more rows than that."""

    @abc.abstractmethod
    def piece_to_id(self, piece: str) -> int:
        """The id of a token given as text (a space as " "). Raises KeyError if no single token has that text."""

    @abc.abstractmethod
    def _save(self, folder: Path) -> None:
        """Writes all but what `read_config` reads."""

    def save(self, folder: str | Path) -> None:
        """Writes files from which `load(folder)` makes the same tokenizer. The folder may be a new one."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save(folder)
        if self._config:
            text = json.dumps(self._config, ensure_ascii=False, indent=2)
            (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        """`encode` of a piece that recurs: a tag, a sub-query, a worker's trace."""
        return tuple(self.encode(piece))

    def encode_prompt(self, before: str, text: str = "", after: str = "", first: bool = True) -> list[int]:
        """The tokens of a prompt: `text` of someone else, never parsed, between two parts in which special tokens are.

        What stands between two special tokens is encoded as one, across the parts, as if the whole had been one text.
        `first`: nothing stands before the prompt. Otherwise it goes on within a text.
        """
        *head, last = self._split(before)
        start, *tail = self._split(after)
        ids: list[int] = []
        for place, piece in enumerate([*head, last + text + start, *tail]):
            if place % 2:
                ids.append(self.controls[piece])
            elif piece:
                ids += self._encode_own(piece, place == 0) if first or place else self.encode(piece)
        return ids

    def _split(self, text: str) -> list[str]:
        """Plain text and special tokens in turn, plain text first and last (it may be empty)."""
        return self._control_pattern.split(text) if self.controls else [text]

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        """One group, the special token; longer ones first."""
        return re.compile(
            "(" + "|".join(re.escape(text) for text in sorted(self.controls, key=len, reverse=True)) + ")"
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the tokens, put together from their bytes: just what the automaton reads.

        Special tokens, and ids beyond the vocabulary (the spare rows of a model), add nothing.
        """
        vocabulary = self.vocabulary
        return b"".join(vocabulary[int(i)] for i in ids if i < len(vocabulary)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text: none for special tokens."""
        return self.vocabulary[token_id]


def prompts_for(tokenizer: Tokenizer, grammar: Grammar, task: str = "") -> Prompts:
    """The prompts of a released model, through its chat template if it has one: see `protocol/prompts.py`.

    Raises ValueError if the chat template can't show them.
    """
    if tokenizer.chat_template is None:
        return base_prompts(grammar, task, tokenizer.begin)
    return chat_prompts(tokenizer.chat_template.render, grammar, task)


def organizer_tokens(tokenizer: Tokenizer, prompts: Prompts, query: str) -> list[int]:
    """The organizer's prompt as tokens; the query is text, whatever stands in it."""
    before, after = prompts.around_query
    return tokenizer.encode_prompt(before, query, after)


def worker_tokens(tokenizer: Tokenizer, prompts: Prompts) -> tuple[list[int], list[int]]:
    """The tokens before and after a sub-query; the engine puts its own, as the organizer wrote them, between."""
    return (
        tokenizer.encode_prompt(prompts.worker_prefix),
        tokenizer.encode_prompt(prompts.worker_suffix, first=False),
    )


def join_closers(tokenizer: Tokenizer, max_forks: int) -> dict[int, list[int]]:
    """For each id the tokens of `</JOIN-i>`, which nobody decodes: they are inserted behind what worker i returned."""
    return {i: tokenizer.encode(tag_literal(Tag.END_JOIN, i)) for i in range(1, max_forks + 1)}


def read_config(folder: Path) -> dict[str, Any]:
    """What a release says of its special tokens and its chats; {} if it says nothing.

    Keys, each there only if the release has it: `bos_token`, `eos_token`, `pad_token`, `unk_token` (text),
    `eos_token_id` and so on where only the id is known, `add_bos_token`, `chat_template` and `added_tokens_decoder`.
    """
    config, special, generation = (
        _json_of(folder / name) for name in (CONFIG, "special_tokens_map.json", "generation_config.json")
    )
    found: dict[str, Any] = {}
    for name in SPECIAL:
        text = config.get(f"{name}_token") or special.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        number = config.get(f"{name}_token_id", generation.get(f"{name}_token_id"))
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(text, str):
            found[f"{name}_token"] = text
        elif isinstance(number, int):
            found[f"{name}_token_id"] = number
    for key in ("add_bos_token", "added_tokens_decoder"):
        if config.get(key) is not None:
            found[key] = config[key]
    template = config.get("chat_template")
    if isinstance(template, list):  # several, with names
        template = {one.get("name"): one.get("template") for one in template}.get("default")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if template:
        found["chat_template"] = template
    return found


def _json_of(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    return value
