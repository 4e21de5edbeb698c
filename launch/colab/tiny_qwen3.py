"""Makes a tiny Qwen3 with random weights, as a release has it: it stands in for the download where there is no network.

    python launch/colab/tiny_qwen3.py runs/tiny_qwen3

Writes config.json, model.safetensors, and a tokenizer with Qwen's special tokens and manner of chat. The model can be
loaded, asked, trained and exported like the real one, and says nothing that makes sense. Exit codes: 0 done, 2 bad
input.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import tokenizers

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPARE_ROWS = 7  # released models have more rows than their tokenizers have tokens


def make(folder: Path) -> None:
    """Writes the model into `folder`, which is new or empty. Raises ValueError, in one line, if it is not."""
    import jax

    from asyncthink_jax.model import transformer
    from asyncthink_jax.model.save_hf import save_hf

    tokenizer = _tokenizer()
    config = transformer.ModelConfig(
        vocab_size=tokenizer.get_vocab_size() + SPARE_ROWS,
        layers=2,
        width=32,
        heads=4,
        kv_heads=2,
        head_dim=8,
        mlp_width=48,
    )
    with tempfile.TemporaryDirectory() as beside:
        definition, settings = Path(beside, "tokenizer.json"), Path(beside, "tokenizer_config.json")
        tokenizer.save(str(definition))
        settings.write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": CHAT}), encoding="utf-8")
        save_hf(
            folder,
            config,
            transformer.init(config, jax.random.key(0)),
            "float32",
            special_tokens={"eos_token_id": tokenizer.token_to_id("<|im_end|>")},
            beside=[definition, settings],
        )


def _tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE, as Qwen's, of the words that the prompts of Countdown are made of."""
    from asyncthink_jax.protocol.grammar import Grammar
    from asyncthink_jax.protocol.prompts import organizer_examples, organizer_instructions, worker_instructions
    from asyncthink_jax.tasks import Countdown

    grammar = Grammar(capacity=4, max_forks=6)
    texts = [organizer_instructions(grammar), worker_instructions(), Countdown().instructions]
    texts += [text for example in organizer_examples(grammar) for text in example]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        if not folder.absolute().parent.is_dir():
            folder.absolute().parent.mkdir()  # `runs/`; a whole missing path is more likely a typing error
        make(folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
