"""Which tokens play a role beside the text, whatever their own file marks them as.

Ends of a text, a turn or a message, its beginning, padding, and the marks between the turns of a chat: nobody may type
one of these into a question, and all of them are tokens in a prompt's own parts. A release says so in several places,
and seldom in all of them: tokenizer_config.json by name, generation_config.json and config.json by number, the chat
template by writing them.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from asyncthink_jax.data.chat import ChatTemplate
from asyncthink_jax.protocol.grammar import is_tag

SPECIAL = ("bos", "eos", "pad", "unk")
_ASKED, _ANSWERED = "what was asked", "what was answered"
_TURNS = {"system": "what to do", "user": _ASKED, "assistant": _ANSWERED}
_CHATS = (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user", "assistant"), ("user",))
_THOUGHTS = ("<think>", "</think>")  # templates write them, but what a model thinks in is its own text
_MARK = re.compile(r"<[|\uff5c][^<>\s]{1,60}[|\uff5c]>")


@dataclasses.dataclass(frozen=True)
class Roles:
    """What a release says of its tokens.

    Attributes:
      template: the chat template, None for a base model.
      chat: a conversation as the template writes it; None without a template, or if it refuses any.
      special: the texts of all tokens with a role.
      end_of_turn: what the template writes behind an answer, if that is a token.
    """

    template: ChatTemplate | None
    chat: str | None
    special: frozenset[str]
    end_of_turn: str | None


def find_roles(
    config: Mapping[str, Any],
    tokens: Collection[str],
    is_token: Callable[[str], bool],
    text_of: Callable[[int], str | None],
    opening: Sequence[str] = (),
) -> Roles:
    """What plays a role.

    Args:
      config: as `tokenizer.read_config` returns it.
      tokens: the texts of the tokens that their file has apart from those of ordinary text, marked special or not.
      is_token: whether a text is in the vocabulary.
      text_of: of an id; None where there is no such token.
      opening: what else a text begins with.

    Raises ValueError for a chat template with a mistake in it, or a tag of the protocol that has a role.
    """
    names = {f"{name}_token": config[f"{name}_token"] for name in SPECIAL if config.get(f"{name}_token")}
    template = ChatTemplate(config["chat_template"], names) if config.get("chat_template") else None
    chats = _rendered(template.source, tuple(sorted(names.items()))) if template else (None,) * len(_CHATS)
    marks, end_of_turn = _marks(chats, tokens, is_token)
    numbers = [*config.get("eos_token_id", ()), *config.get("bos_token_id", ())]
    ends = {names[name] for name in ("bos_token", "eos_token") if name in names}
    ends |= {text for text in map(text_of, numbers) if text is not None} | set(opening)
    if tags := sorted(filter(is_tag, ends)):
        raise ValueError(f"{tags[0]!r} begins or ends its texts, and is a tag of the protocol: no agent could write it")
    more = [text for text in config.get("additional_special_tokens", ()) if text in tokens or is_token(text)]
    for text in config.get("additional_special_tokens", ()):  # of an image, say, which no prompt of ours has
        if text not in more and any(text in chat for chat in chats if chat):
            raise ValueError(f"the chat template writes {text!r}, a special token that the tokenizer doesn't have")
    # Padding and the unknown may be ordinary text (Qwen's first models pad with "!").
    padding = {text for name, text in names.items() if name in ("pad_token", "unk_token") and text in tokens}
    special = ends | marks | padding | set(more)
    chat = next((text for text in chats if text is not None), None)
    return Roles(template, chat, frozenset(text for text in special if not is_tag(text)), end_of_turn)


@functools.lru_cache(maxsize=32)
def _rendered(source: str, names: tuple[tuple[str, str], ...]) -> tuple[str | None, ...]:
    """What a template makes of `_CHATS`; kept, for a process is started to ask it."""
    chats = [[{"role": role, "content": _TURNS[role]} for role in roles] for roles in _CHATS]
    return tuple(ChatTemplate(source, dict(names)).render_all(chats))


def _marks(
    chats: Sequence[str | None], tokens: Collection[str], is_token: Callable[[str], bool]
) -> tuple[set[str], str | None]:
    """The tokens that a template has written around turns, and the one that it has written behind an answer."""
    found: set[str] = set()
    end = None
    for roles, text in zip(_CHATS, chats, strict=True):
        if text is None:  # some take no system message, or no answer; `prompts_for` says what none of them takes
            continue
        written = {mark for mark in _MARK.findall(text) if is_token(mark)}
        written |= {token for token in tokens if token in text and token.strip() and not token.isalnum()}
        found |= written - set(_THOUGHTS)
        if roles[-1] == "assistant" and _ANSWERED in text:
            behind = text.rpartition(_ANSWERED)[2].lstrip()
            end = max((mark for mark in found if behind.startswith(mark)), key=len, default=None)
    return found, end
