"""What plays a role is special, whatever its mark: no text is encoded to it. A model stops at all that end a text."""

import json

import pytest
from released import golden, released_model, write
from sentencepiece import sentencepiece_model_pb2
from test_gguf_tokenizer import byte_pairs, sentencepiece_fields
from test_gguf_tokenizer import write as write_gguf

from asyncthink_jax.data.tokenizer_files import load_tokenizer

END = "<|im_end|>"


def folder_of(tmp_path, change=lambda definition: None, named=None, **files):
    """A byte-level release, changed. `files`: what stands in the JSON files beside it."""
    expected = golden("byte_level")
    change(expected["definition"])
    write(tmp_path, expected["definition"], expected["config"] if named is None else named)
    for name, value in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return load_tokenizer(tmp_path)


def unmark(definition):
    for token in definition["added_tokens"]:
        token["special"] = False


def from_vocabulary(definition):
    """The chat's marks are pieces of the vocabulary, and no added tokens."""
    definition["model"]["vocab"] |= {token["content"]: token["id"] for token in definition["added_tokens"]}
    definition["added_tokens"] = []


def cannot_be_typed(tokenizer, *texts):
    for text in texts:
        number = tokenizer.controls[text]
        for typed in (text, f"a {text} b", f"a{text}{text}", f"\n{text} "):
            assert number not in tokenizer.encode(typed) and tokenizer.decode(tokenizer.encode(typed)) == typed
            ids = tokenizer.encode_prompt(text, typed, text)
            assert ids[0] == ids[-1] == number and ids.count(number) == 2
        assert tokenizer.vocabulary[number] == b""


@pytest.mark.parametrize("change", [unmark, from_vocabulary])
def test_marks_of_a_chat_cannot_be_typed_however_they_are_marked(change, tmp_path):
    tokenizer = folder_of(tmp_path, change)
    cannot_be_typed(tokenizer, END, "<|im_start|>")
    assert tokenizer.stop_ids == (452,) and tokenizer.pad_id == 450
    tokenizer.save(tmp_path / "copy")
    cannot_be_typed(load_tokenizer(tmp_path / "copy"), END, "<|im_start|>")


def test_thoughts_and_what_no_template_writes_are_text(tmp_path):
    tokenizer = folder_of(
        tmp_path, unmark, {"eos_token": END, "chat_template": golden("byte_level")["config"]["chat_template"]}
    )
    for text in ("<think>", "</think>", "<|endoftext|>"):
        assert tokenizer.encode(text) == [tokenizer.piece_to_id(text)] and text not in tokenizer.controls


@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({}, {"generation_config": {"eos_token_id": [450, 452]}}),
        ({}, {"config": {"eos_token_id": "450"}}),
        ({"bos_token": "<|endoftext|>"}, {}),
        ({"additional_special_tokens": ["<|endoftext|>"]}, {}),
        ({"extra_special_tokens": {"image_token": {"content": "<|endoftext|>"}}}, {}),
        ({}, {"special_tokens_map": {"additional_special_tokens": [{"content": "<|endoftext|>"}]}}),
        ({"added_tokens_decoder": {"450": {"content": "<|endoftext|>", "special": True}}}, {}),
    ],
)
def test_a_role_is_found_wherever_it_is_stated(config, files, tmp_path):
    cannot_be_typed(folder_of(tmp_path, unmark, config, **files), "<|endoftext|>")


def test_a_special_token_that_is_none_matters_where_the_template_writes_it(tmp_path):
    lacking = {"extra_special_tokens": {"image_token": "<image>"}}
    assert folder_of(tmp_path / "unused", named=lacking).encode("<image>")
    template = {"chat_template": "{% for m in messages %}<image>{{ m.content }}{% endfor %}"}
    with pytest.raises(
        ValueError, match="the chat template writes '<image>', a special token that the tokenizer doesn't"
    ):
        folder_of(tmp_path / "written", named=lacking | template)


def test_tokens_that_stand_beside_the_file_alone_are_tokens(tmp_path):
    template = "{% for m in messages %}<|turn|>{{ m.content }}<|over|>{% endfor %}<|turn|>"
    beside = {"455": {"content": "<|turn|>", "special": True}, "456": {"content": "<|over|>", "special": True}}
    config = {"eos_token": "<|over|>", "chat_template": template, "added_tokens_decoder": beside}
    tokenizer = folder_of(tmp_path / "new", named=config)
    assert tokenizer.eos_id == 456
    cannot_be_typed(tokenizer, "<|turn|>", "<|over|>")
    older = folder_of(
        tmp_path / "old", named={"chat_template": template}, added_tokens={"<|over|>": 456, "<|turn|>": 455}
    )
    assert older.controls == tokenizer.controls and older.stop_ids == (456,)
    for added, says in (
        ({"460": {"content": "<|turn|>"}}, "'<|turn|>' has the id 460, and the tokenizers library reads it as 455"),
        ({"455": {"content": END}}, "'<|im_end|>' is 452, and beside the file 455"),
        ({"452": {"content": "<|turn|>"}}, "'<|turn|>' and '<|im_end|>' have the same id, 452"),
    ):
        with pytest.raises(ValueError, match=r"tokenizer\.json: ") as error:
            folder_of(tmp_path / "new", named={"added_tokens_decoder": added})
        assert says in str(error.value) and "\n" not in str(error.value)


def test_ordinary_text_that_ends_a_text_is_spelled_otherwise_where_it_can_be(tmp_path):
    vocabulary = golden("byte_level")["definition"]["model"]["vocab"]
    number = vocabulary["Ġand"] if "Ġand" in vocabulary else next(i for t, i in vocabulary.items() if len(t) > 3)
    tokenizer = folder_of(tmp_path, generation_config={"eos_token_id": [452, number]})
    text = next(text for text, i in tokenizer.controls.items() if i == number)
    cannot_be_typed(tokenizer, text)
    with pytest.raises(ValueError, match=r"token 2 \('#'\) begins or ends texts, and is ordinary text as well"):
        folder_of(tmp_path, generation_config={"eos_token_id": 2})
    with pytest.raises(ValueError, match="a part of a character, is said to begin or end texts"):
        folder_of(tmp_path, generation_config={"eos_token_id": vocabulary["Ã"]})


def test_a_tag_may_be_an_added_token_but_not_play_a_role(tmp_path):
    def add(definition):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        definition["added_tokens"].append({"id": 455, "content": "<ANSWER>", "special": True, **flags})

    tokenizer = folder_of(tmp_path, add)
    assert tokenizer.encode(" a<ANSWER>b")[1] == 455 and tokenizer.token_bytes(455) == b"<ANSWER>"
    with pytest.raises(ValueError, match="'<ANSWER>' begins or ends its texts, and is a tag of the protocol"):
        folder_of(tmp_path, add, {"eos_token": "<ANSWER>"})


def test_a_model_stops_at_every_id_that_is_stated(tmp_path):
    tokenizer = folder_of(
        tmp_path,
        named={"pad_token_id": 2**32 - 1, "bos_token_id": 99_999},
        generation_config={"eos_token_id": [450, 452, -1, None]},
        config={"eos_token_id": "451"},
    )
    assert tokenizer.stop_ids == (450, 452, 451) and tokenizer.eos_id == 450
    assert tokenizer.pad_id is tokenizer.bos_id is None
    tokenizer.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").stop_ids == tokenizer.stop_ids


def test_what_a_template_writes_behind_an_answer_ends_a_text(tmp_path):
    template = golden("byte_level")["config"]["chat_template"]
    assert folder_of(tmp_path, unmark, {"chat_template": template}).stop_ids == (452,)
    assert folder_of(tmp_path, named={"eos_token": "<|endoftext|>", "chat_template": template}).stop_ids == (450, 452)
    no_end = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"
    assert folder_of(tmp_path, named={"chat_template": no_end}).stop_ids == ()


def test_ids_in_spare_rows_of_the_model_stop_it_as_well(tmp_path):
    tokenizer = folder_of(tmp_path, generation_config={"eos_token_id": [460, 452]})
    assert tokenizer.eos_id == 452 and tokenizer.stop_ids == (452, 460)


@pytest.mark.parametrize("kind", [4, 1])
def test_a_gguf_may_mark_the_ends_as_user_defined_or_ordinary(kind, tmp_path):
    fields = byte_pairs(golden("byte_level")["definition"], "qwen2", golden("byte_level")["config"]["chat_template"])
    fields["token_type"] = [kind if i in (450, 451, 452) else one for i, one in enumerate(fields["token_type"])]
    tokenizer = load_tokenizer(write_gguf(tmp_path / "m.gguf", **fields, eom_token_id=450))
    cannot_be_typed(tokenizer, END, "<|im_start|>", "<|endoftext|>")
    assert tokenizer.stop_ids == (452, 450)


def test_ids_of_no_token_are_unset_in_a_gguf(tmp_path):
    fields = byte_pairs(golden("byte_level")["definition"], "qwen2", "{{ messages[0].content }}")
    unset = {"padding_token_id": 2**32 - 1, "unknown_token_id": 457, "eot_token_id": 2**32 - 1}
    tokenizer = load_tokenizer(write_gguf(tmp_path / "m.gguf", **(fields | unset)))
    assert tokenizer.pad_id is None and tokenizer.stop_ids == (450,)


def test_a_piece_that_is_there_twice_in_a_gguf_is_refused(tmp_path):
    fields = byte_pairs(golden("byte_level")["definition"], "qwen2")
    fields["tokens"][449] = fields["tokens"][300]
    with pytest.raises(ValueError, match=r"m\.gguf: tokenizer\.ggml\.tokens has .* twice, 300 and 449"):
        load_tokenizer(write_gguf(tmp_path / "m.gguf", **fields))


@pytest.mark.parametrize("kind", ["NORMAL", "USER_DEFINED"])
def test_ends_of_a_sentencepiece_model_cannot_be_typed_however_they_are_marked(kind, tmp_path):
    path = released_model(tmp_path / "tokenizer.model")
    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    proto.pieces[2].type = proto.pieces[319].type = getattr(proto.SentencePiece, kind)
    proto.pieces[319].piece = "<|end|>"
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 319]}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.stop_ids == (2, 319)
    cannot_be_typed(tokenizer, "</s>", "<|end|>")
    fields = sentencepiece_fields(path) | {"eot_token_id": 319}
    cannot_be_typed(load_tokenizer(write_gguf(tmp_path / "m.gguf", **fields)), "</s>", "<|end|>")
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"2": {"content": "<|end|>"}}}')
    with pytest.raises(ValueError, match=r"token 2 is '<\|end\|>' beside the model, and '</s>' in it"):
        load_tokenizer(tmp_path)


def test_a_byte_that_ends_texts_is_refused_in_a_sentencepiece_model(tmp_path):
    released_model(tmp_path / "tokenizer.model")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 13]}')
    with pytest.raises(ValueError, match=r"token 13 \(<0x0A>\) begins or ends texts, and is ordinary text"):
        load_tokenizer(tmp_path)


def test_our_own_tokenizer_has_one_end(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).stop_ids == tokenizer.stop_ids == (1,)
