"""Small tokenizers in the files of a release, for tests."""

import json
from pathlib import Path

import sentencepiece

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("byte_level", "smollm", "llama_3", "prepend", "metaspace_first", "metaspace_always")


def golden(kind):
    return json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))


def write(folder, definition, config):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def released_model(path):
    """A SentencePiece model as Llama 2 has it: a space before every text, and bytes for what it doesn't know."""
    texts = ["the organizer forks a query and joins it", "what is the answer ? the answer is 391"] * 4
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return path
