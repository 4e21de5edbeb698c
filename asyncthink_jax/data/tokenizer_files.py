"""The tokenizer of a released model, from whatever file holds it."""

from pathlib import Path

from asyncthink_jax.data.json_tokenizer import JsonTokenizer
from asyncthink_jax.data.probe import check
from asyncthink_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from asyncthink_jax.data.tokenizer import Tokenizer

# A tokenizer's, as published with models; the last one says which tokens end a text.
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a release: a folder with tokenizer.json or tokenizer.model, one of these files, or a GGUF.

    Of a folder that has several, tokenizer.json is taken, then tokenizer.model, then the one file *.gguf.

    Raises FileNotFoundError or ValueError, in one line, for what is missing, broken or not supported, and where a text
    doesn't come back as it went in (`data/probe.py`).
    """
    path = Path(path)
    tokenizer: Tokenizer
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such tokenizer file or folder")
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
        found = found or sorted(path.glob("*.gguf"))
        if not found:
            raise FileNotFoundError(f"{path}: holds no tokenizer.json, no tokenizer.model and no .gguf file")
        if len(found) > 1 and found[0].suffix == ".gguf":
            raise ValueError(f"{path}: holds {len(found)} .gguf files; name one of them")
        path = found[0]
    if path.suffix == ".gguf":
        from asyncthink_jax.data.gguf_tokenizer import load_gguf  # half a second, which other runs have no use for

        tokenizer = load_gguf(path)
    elif path.suffix == ".json":
        tokenizer = JsonTokenizer.load(path)
    elif path.suffix == ".model":
        tokenizer = SentencePieceTokenizer.load(path)
    else:
        raise ValueError(f"{path}: a tokenizer is a .json, .model or .gguf file, or a folder with one")
    try:
        check(tokenizer)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return tokenizer
