"""The tokenizer inside a GGUF is the release's own one."""

import json
from pathlib import Path

import gguf
import pytest
from released import golden, released_model
from sentencepiece import sentencepiece_model_pb2

from asyncthink_jax.data.tokenizer_files import load_tokenizer

PRE = {"byte_level": "qwen2", "smollm": "smollm", "llama_3": "llama-bpe"}


def write(path, leave_out=(), **fields):
    """A GGUF of `tokenizer.ggml.*` fields and nothing else."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in fields.items():
        if name in leave_out:
            continue
        key = "tokenizer.chat_template" if name == "chat_template" else f"tokenizer.ggml.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def byte_pairs(definition, pre, template="{{ eos_token }}"):
    """The fields that llama.cpp's converter makes of a tokenizer.json, with two spare rows."""
    model = definition["model"]
    texts = {i: (text, 1) for text, i in model["vocab"].items()}
    texts |= {t["id"]: (t["content"], 3 if t["special"] else 4) for t in definition["added_tokens"]}
    typed = [texts[i] for i in range(len(texts))] + [("[PAD455]", 5), ("[PAD456]", 5)]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": [text for text, _ in typed],
        "token_type": [kind for _, kind in typed],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "eos_token_id": 450,
        "eot_token_id": 452,
        "padding_token_id": 450,
        "bos_token_id": 451,
        "add_bos_token": False,
        "chat_template": template,
    }


@pytest.mark.parametrize("kind", PRE)
def test_byte_pairs_are_those_of_the_tokenizer_json(kind, tmp_path):
    expected = golden(kind)
    template = expected["config"]["chat_template"]
    tokenizer = load_tokenizer(write(tmp_path / "m.gguf", **byte_pairs(expected["definition"], PRE[kind], template)))
    for one in expected["texts"]:
        assert tokenizer.encode(one["text"]) == one["ids"]
    for chat in expected["chats"]:
        assert tokenizer.encode_prompt(tokenizer.chat_template.render(chat["messages"])) == chat["ids"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(expected["definition"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(expected["config"]))
    released = load_tokenizer(tmp_path)
    assert tokenizer.vocabulary == released.vocabulary and tokenizer.controls == released.controls
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.begin) == (released.eos_id, released.pad_id, "")


def test_it_saves_as_a_tokenizer_json(tmp_path):
    expected = golden("llama_3")
    tokenizer = load_tokenizer(write(tmp_path / "m.gguf", **byte_pairs(expected["definition"], "llama-bpe")))
    tokenizer.save(tmp_path / "copy")
    again = load_tokenizer(tmp_path / "copy")
    assert [again.encode(one["text"]) for one in expected["texts"]] == [one["ids"] for one in expected["texts"]]
    assert again.vocabulary == tokenizer.vocabulary and again.eos_id == tokenizer.eos_id
    assert again.chat_template.render([]) == "<|im_end|>"


def test_whether_texts_begin_with_bos_is_the_files_or_the_kinds(tmp_path):
    definition = golden("llama_3")["definition"]
    for number, (pre, leave_out, begin) in enumerate(
        [("llama-bpe", ["add_bos_token"], "<|im_start|>"), ("llama-bpe", [], ""), ("qwen2", ["add_bos_token"], "")]
    ):
        path = write(tmp_path / f"{number}.gguf", leave_out, **byte_pairs(definition, pre))
        assert load_tokenizer(path).begin == begin
    fields = byte_pairs(definition, "qwen2")
    assert load_tokenizer(write(tmp_path / "eos.gguf", ["eot_token_id"], **fields)).eos_id == 450


def sentencepiece_fields(path: Path):
    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    return {
        "model": "llama",
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "token_type": [piece.type for piece in proto.pieces],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_vocabulary_is_the_model(prefix, tmp_path):
    model = load_tokenizer(released_model(tmp_path / "tokenizer.model"))
    fields = sentencepiece_fields(tmp_path / "tokenizer.model")
    tokenizer = load_tokenizer(write(tmp_path / "m.gguf", **fields, add_space_prefix=prefix))
    for text in ("the query", " the  query ", "é 😀\n\x00", "<s> </s>", "what is 391?"):
        assert tokenizer.encode(text) == model.encode(text)
        assert tokenizer.encode_prompt("", text) == (model.encode_prompt("", text) if prefix else model.encode(text))
    assert tokenizer.vocabulary == model.vocabulary
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id, tokenizer.begin) == (2, 1, None, "<s>")
    tokenizer.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").encode("the query 😀") == model.encode("the query 😀")


@pytest.mark.parametrize(
    ("changes", "leave_out", "says"),
    [
        ({"model": "t5"}, [], "of the kind 't5' is not supported"),
        ({}, ["model"], "of the kind None is not supported"),
        (
            {"pre": "tekken"},
            [],
            "cut as 'tekken' (tokenizer.ggml.pre), which is not supported; smollm, qwen2, llama-bpe",
        ),
        ({}, ["pre"], "cut as 'default'"),
        ({}, ["merges"], "has no tokenizer.ggml.merges"),
        ({"model": "llama"}, [], "has no tokenizer.ggml.scores"),
        ({"eot_token_id": "end"}, [], "tokenizer.ggml.eot_token_id is 'end', "),
    ],
)
def test_what_is_not_supported_is_one_line(changes, leave_out, says, tmp_path):
    fields = {**byte_pairs(golden("byte_level")["definition"], "qwen2"), **changes}
    path = write(tmp_path / "m.gguf", leave_out, **fields)
    with pytest.raises(ValueError) as error:
        load_tokenizer(path)
    assert says in str(error.value) and str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_file_that_is_no_gguf_or_is_cut_off_is_one_line(tmp_path):
    path = write(tmp_path / "m.gguf", **byte_pairs(golden("byte_level")["definition"], "qwen2"))
    for content in (b"", b"not a model", path.read_bytes()[:3000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"m\.gguf(: no whole GGUF file| is empty)") as error:
            load_tokenizer(path)
        assert "\n" not in str(error.value)


def test_a_word_that_is_a_token_needs_no_merges_in_llama_3_alone(tmp_path):
    for pre, count in (("llama-bpe", 1), ("qwen2", 4)):
        fields = {**byte_pairs(golden("llama_3")["definition"], pre), "merges": ["a b"]}
        assert len(load_tokenizer(write(tmp_path / f"{pre}.gguf", **fields)).encode(" the")) == count
