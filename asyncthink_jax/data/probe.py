"""Whether a tokenizer reads what is written: texts go in and have to come out again before a model sees any.

A tokenizer.json may put a space before a text, fold capitals, drop blanks or merge characters, at any depth of it, and
then a model reads, or is trained on, another text than everybody sees. What is known to be undone is undone
(`json_tokenizer`); all else shows here, whatever makes it.
"""

from __future__ import annotations

from asyncthink_jax.data.tokenizer import Tokenizer
from asyncthink_jax.protocol.grammar import tag_literals

_TEXTS = (
    "the query",
    " two  blanks at both ends   ",
    "Capitals, UMLAUTS ÄÖÜ and 12,345.67 = x² - ½",
    "lines\nof\n\ntext\r\n\tand a tab\n",
    "naïve café, größer, 日本語, עברית, 😀👍🏽",
    "def f(x):\n    return {x: '<a href=\"b\">'} # <|x|> [y] </z>",
)
_TAGS = [*tag_literals(12)]


def check(tokenizer: Tokenizer) -> None:
    """Raises ValueError, in one line, for a text that doesn't come back as it went in."""
    if tokenizer.closed:
        _same(tokenizer, "".join(tag for tag in _TAGS if tag in tokenizer.added_texts))
        return
    for text in [*_TEXTS, *(form.format(tag) for tag in _TAGS for form in ("{}", "one {} two", "one{}two"))]:
        _same(tokenizer, text)
    _each(tokenizer, [token for token in (*tokenizer.added_texts, *tokenizer.sought) if token.isprintable()])
    for text, number in tokenizer.controls.items():
        for within in (text, f"one {text} two", f"one{text}two"):
            if number in tokenizer.encode(within):
                raise ValueError(f"a question with {text!r} in it is read as the special token")
        if tokenizer.encode_prompt("", "", text).count(number) != 1:
            raise ValueError(f"{text!r} is a special token, and is not read as one where a prompt has it")
    _prompt(tokenizer)


def _same(tokenizer: Tokenizer, text: str) -> None:
    read = tokenizer.decode(tokenizer.encode(text))
    if read != text:
        raise ValueError(f"the text {text!r} is read as {read!r}: what its tokens spell is another text")
    read = tokenizer.decode(tokenizer.encode_prompt("", text))
    if read not in (text, f" {text}"):
        raise ValueError(f"the text {text!r} is read as {read!r} in a prompt: what its tokens spell is another text")


def _each(tokenizer: Tokenizer, tokens: list[str]) -> None:
    """As `_same`, with each of these tokens between words: at once, since there may be thousands."""
    for form in ("one{}two", "one {} two"):
        text = " . ".join(form.format(token) for token in tokens)
        if tokens and tokenizer.decode(tokenizer.encode(text)) != text:
            for token in tokens:
                _same(tokenizer, form.format(token))
            _same(tokenizer, text)


def _prompt(tokenizer: Tokenizer) -> None:
    """A chat is read as it is written: each mark of the template as one token, the rest as text."""
    if (text := tokenizer.chat) is None:
        return
    read, written = tokenizer.decode(tokenizer.encode_prompt(text)), text
    for mark in sorted(tokenizer.controls, key=len, reverse=True):
        written = written.replace(mark, "")
    if "".join(read.split()) != "".join(written.split()):
        raise ValueError(f"the chat {text!r} is read as {read!r} beside its special tokens")
