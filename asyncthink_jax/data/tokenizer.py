"""What the project asks of a tokenizer, and what a release of a model says of its own.

Two kinds of text are encoded in two ways. Text of a user or of a model (`encode`) is never parsed for special tokens:
`<|im_end|>` typed into a question is those ten characters. The parts of a prompt that are the project's or the chat
template's own (`encode_prompt`) are parsed for them. What is special is what plays a role (`data/roles.py`), however it
is marked.

The end of a turn. A release may name several end-of-text tokens, and a model is done at any of them (`stop_ids`): those
of tokenizer_config.json, generation_config.json and config.json, in a GGUF the ends of text, turn and message, and what
the chat template writes behind an answer. `eos_id` is the one that ends a turn of a chat, where there is one:
`eos_token` of tokenizer_config.json (`<|im_end|>` of Qwen3, `<|eot_id|>` of Llama 3 Instruct), else that of
special_tokens_map.json, else the first `eos_token_id` of generation_config.json, whose first is not always the chat's,
else that of config.json; in a GGUF `tokenizer.ggml.eot_token_id`, else `tokenizer.ggml.eos_token_id`. bos and pad
likewise; each is None where the release names none, or an id that no token has.
"""

from __future__ import annotations

import abc
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from asyncthink_jax import stated
from asyncthink_jax.data.roles import SPECIAL, Roles
from asyncthink_jax.protocol.grammar import Grammar, Tag, tag_literal
from asyncthink_jax.protocol.prompts import Prompts, base_prompts, chat_prompts
from asyncthink_jax.protocol.wire import Wire
from asyncthink_jax.untrusted.files import check_file, read_json

CONFIG = "tokenizer_config.json"
_NO_ROLES = Roles(None, None, frozenset(), None)
_ANY = 2**31 - 1  # ids up to here may be a token of some vocabulary


class Tokenizer(abc.ABC):
    """A tokenizer over bytes: what its tokens spell is `vocabulary`, whatever it is made of.

    Attributes:
      pad_id, eos_id, bos_id: None where there is none.
      stop_ids: all tokens that end a text, a turn or a message, `eos_id` first. They may lie beyond the vocabulary, in
        the spare rows of a model.
      closed: it has the words of a task, and no other text can be written in it.
      added_texts: of the tokens that stand apart from those of ordinary text, and are not special.
      sought: texts that it may put others in the place of.
      begin: the text of the special token that every text begins with ("" = none), for prompts without a chat template.
      chat_template: how the model was taught to read a conversation, None for a base model; `chat` is one so written.
    """

    closed = False
    added_texts: Sequence[str] = ()
    sought: Sequence[str] = ()

    def __init__(self, config: Mapping[str, Any], roles: Roles = _NO_ROLES):
        """`config`: what `read_config` returns. The subclass must know `controls` and `piece_to_id` by now.

        Raises ValueError for a special token that the vocabulary doesn't have.
        """
        self._config = dict(config)
        named = {name: self._named(name) for name in ("bos", "eos", "pad")}
        self.bos_id, self.pad_id = (
            next((i for i in named[name] if i < self.vocab_size), None) for name in ("bos", "pad")
        )
        end_of_turn = [] if roles.end_of_turn is None else [self.controls[roles.end_of_turn]]
        ends = [*named["eos"], *config.get("eos_token_id", ()), *end_of_turn]
        self.eos_id = next((i for i in ends if i < self.vocab_size), None)
        self.stop_ids = tuple(dict.fromkeys([*([] if self.eos_id is None else [self.eos_id]), *ends]))
        self.chat_template, self.chat = roles.template, roles.chat
        self.begin = config.get("bos_token", "") if config.get("add_bos_token") else ""

    def _named(self, name: str) -> list[int]:
        text = self._config.get(f"{name}_token")
        if text is None:
            return list(self._config.get(f"{name}_token_id", ()))
        try:
            return [self.controls[text] if text in self.controls else self.piece_to_id(text)]
        except KeyError:
            raise ValueError(f"{name}_token is {text!r}, which is no token of the tokenizer") from None

    def encode(self, text: str) -> list[int]:
        """The tokens of some text of a user or a model; no special token comes of it, and no space is put before it."""
        return self._without_controls(self._encode(text))

    @abc.abstractmethod
    def _encode(self, text: str) -> list[int]:
        """As `encode`, but a token that is special by its role alone may come of it, as of any text."""

    @abc.abstractmethod
    def _encode_own(self, text: str, first: bool) -> list[int]:
        """As `_encode`, but with the space before it that the model was trained with, if it was.

        `first`: nothing stands before the text, else a special token does.
        """

    def _without_controls(self, ids: list[int]) -> list[int]:
        """The same text in other tokens where a special one is among them: none may come of text."""
        if self._never.isdisjoint(ids):
            return ids
        return [other for i in ids for other in (self._spelled_otherwise(i) if i in self._never else (i,))]

    @cached_property
    def _never(self) -> frozenset[int]:
        """The tokens that no text is encoded to; what a vocabulary lacks may be unknown."""
        unknown = self._config.get("unk_token")
        return frozenset(i for text, i in self.controls.items() if text != unknown or i in self.stop_ids)

    def _spelled_otherwise(self, token_id: int) -> tuple[int, ...]:
        """The fewest other tokens that spell the text of a special one. Raises ValueError where there are none."""
        text = next(text for text, i in self.controls.items() if i == token_id)
        data = text.encode()
        ways: list[tuple[int, ...] | None] = [()]
        for end in range(1, len(data) + 1):
            parts = [
                (*way, self._spellings[data[start:end]])
                for start, way in enumerate(ways)
                if way is not None and data[start:end] in self._spellings
            ]
            ways.append(min(parts, key=len, default=None))
        way = ways[-1]
        if way is None:
            raise ValueError(f"token {token_id} ({text!r}) begins or ends texts, and is ordinary text as well")
        return way

    @cached_property
    def _spellings(self) -> dict[bytes, int]:
        """The token for each text that one spells, of several the first."""
        return {text: i for i, text in reversed(list(enumerate(self.vocabulary))) if text}

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
                own = self._encode_own(piece, place == 0) if first or place else self._encode(piece)
                ids += self._without_controls(own)
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


def wire(tokenizer: Tokenizer, prompts: Prompts, grammar: Grammar, vocab_size: int | None = None) -> Wire:
    """The protocol in the tokens of a tokenizer, for a model of `vocab_size` rows (default: as many as tokens)."""
    prefix, suffix = worker_tokens(tokenizer, prompts)
    return Wire(
        grammar,
        tokenizer.vocabulary,
        prefix,
        suffix,
        close_join={i: tokenizer.encode(tag_literal(Tag.END_JOIN, i)) for i in range(1, grammar.max_forks + 1)},
        stop_ids=[i for i in tokenizer.stop_ids if vocab_size is None or i < vocab_size],
        vocab_size=vocab_size,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """What a release says of its special tokens and its chats; {} if it says nothing.

    Keys, each there only if the release has it: `bos_token`, `eos_token`, `pad_token`, `unk_token` and
    `additional_special_tokens` (text); `bos_token_id`, `pad_token_id` (a list) where only the id is known;
    `eos_token_id`, all ends of a text that are known by id; `add_bos_token`, `chat_template`; `added_tokens_decoder`,
    what is known of the tokens that were added to the vocabulary, by id.

    Raises ValueError, in one line, for a file that is broken.
    """
    files = (CONFIG, "special_tokens_map.json", "generation_config.json", "config.json")
    by_file = {name: _json_of(folder / name) for name in files}
    config, special, *_ = by_file.values()
    found: dict[str, Any] = {}
    for name in SPECIAL:
        text = _text_of(config.get(f"{name}_token")) or _text_of(special.get(f"{name}_token"))
        if text:
            found[f"{name}_token"] = text
        key = f"{name}_token_id"
        numbers = {
            file: stated.token_ids(values.get(key), f"{folder / file}: {key}", _ANY)
            for file, values in by_file.items()
            if file != "config.json" or name == "eos"
        }
        # A text that ends may end by any of them; it begins in one way.
        if name == "eos" or not text:
            ids = list(dict.fromkeys(itertools.chain(*numbers.values())))
            if ids:
                found[key] = ids if name == "eos" else ids[:1]
    more = [
        _text_of(one)
        for values in (config, special)
        for key in ("additional_special_tokens", "extra_special_tokens")
        for one in _values(values.get(key))
    ]
    if more := list(dict.fromkeys(text for text in more if text)):
        found["additional_special_tokens"] = more
    if config.get("add_bos_token") is not None:
        found["add_bos_token"] = stated.flag(config["add_bos_token"], f"{folder / CONFIG}: add_bos_token")
    if added := _added_tokens(folder, config):
        found["added_tokens_decoder"] = added
    template = config.get("chat_template")
    if isinstance(template, list):  # several, with names
        names = [one.get("name") if isinstance(one, dict) else None for one in template]
        if template and "default" not in names:
            raise ValueError(f"{folder / CONFIG}: none of the templates of chat_template is named 'default'")
        template = template[names.index("default")].get("template") if template else None
    path = folder / "chat_template.jinja"
    if path.is_file():
        check_file(path)
        try:
            template = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 at byte {error.start + 1}") from None
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{folder / CONFIG}: chat_template is no text")
    if template:
        found["chat_template"] = template
    return found


def _text_of(token: Any) -> str | None:
    """The text of a token as a release writes it: as such, or with its properties."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []


def _added_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that are added to the vocabulary, by id, of tokenizer_config.json and of added_tokens.json (older)."""
    where = f"{folder / CONFIG}: added_tokens_decoder"
    stated_ones = config.get("added_tokens_decoder") or {}
    if not isinstance(stated_ones, dict) or not all(_text_of(token) for token in stated_ones.values()):
        raise ValueError(f"{where} is no map from ids to tokens")
    added = {str(stated.whole(i, where, least=0)): token for i, token in stated_ones.items()}
    older = "added_tokens.json"
    for text, i in _json_of(folder / older).items():
        added.setdefault(str(stated.whole(i, f"{folder / older}: {text!r}", least=0)), {"content": text})
    return added


def _json_of(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    return value
