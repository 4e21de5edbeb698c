"""A tokenizer that reads other text than is written is refused when it is loaded, or read as it was meant."""

import json

import pytest
import sentencepiece
from released import golden, write

from asyncthink_jax.data.tokenizer_files import load_tokenizer

PREPEND = {"type": "Prepend", "prepend": "\u2581"}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def nested(step, name, depth):
    for _ in range(depth):
        step = {"type": "Sequence", name: [step]}
    return step


def loaded(tmp_path, kind, change):
    expected = golden(kind)
    change(expected["definition"])
    return load_tokenizer(write(tmp_path, expected["definition"], expected["config"]))


def added(text, number, **flags):
    return {"id": number, "content": text, **dict.fromkeys(FLAGS, False), **flags}


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(
    ("kind", "part", "name"),
    [
        ("prepend", "normalizer", "normalizers"),
        ("metaspace_first", "pre_tokenizer", "pretokenizers"),
        ("metaspace_always", "pre_tokenizer", "pretokenizers"),
        ("byte_level", "decoder", "decoders"),
        ("prepend", "decoder", "decoders"),
    ],
)
def test_a_layout_may_be_nested(kind, part, name, depth, tmp_path):
    tokenizer = loaded(tmp_path, kind, lambda d: d.update({part: nested(d[part], name, depth)}))
    assert tokenizer.decode(tokenizer.encode("the query")) == "the query"
    for one in golden(kind)["texts"]:
        assert tokenizer.encode_prompt("", one["text"]) == one["ids"]
    for chat in golden(kind)["chats"]:
        assert tokenizer.encode_prompt(chat["text"]) == chat["ids"]


def test_a_byte_level_step_that_adds_a_blank_is_found_at_any_depth(tmp_path):
    def change(definition):
        step = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        definition["pre_tokenizer"] = nested(step, "pretokenizers", 3)

    tokenizer = loaded(tmp_path, "smollm", change)
    assert tokenizer.decode(tokenizer.encode("the query")) == "the query"
    assert tokenizer.decode(tokenizer.encode_prompt("", "the query")) == " the query"


def normalizer(*steps):
    return lambda definition: definition.update(normalizer={"type": "Sequence", "normalizers": list(steps)})


def before(*steps):
    return lambda definition: definition["pre_tokenizer"]["pretokenizers"].__setitem__(slice(0, 0), list(steps))


def regex(pattern, content):
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def sought(text, **what):
    return {"pattern": {"String": text}, **what}


def without_bytes(definition):
    model = definition["model"]
    model["byte_fallback"] = False


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("byte_level", normalizer({"type": "Lowercase"}), "'Capitals, "),
        ("byte_level", normalizer({"type": "NFKC"}), "x² - ½' is read as 'Capitals"),
        ("byte_level", normalizer({"type": "Strip", "strip_left": True, "strip_right": False}), "' two  blanks"),
        ("byte_level", normalizer({"type": "Strip", "strip_left": False, "strip_right": True}), "' two  blanks"),
        ("byte_level", normalizer({"type": "NFD"}, {"type": "StripAccents"}), "UMLAUTS AOU"),
        (
            "byte_level",
            normalizer(nested(regex(" +", " "), "normalizers", 3)),
            "' two  blanks at both ends   ' is read",
        ),
        ("byte_level", normalizer(regex("^(?=.)", " ")), "the tokenizers library fails at it"),
        ("byte_level", normalizer({"type": "Prepend", "prepend": "Q: "}), "'the query' is read as 'Q: the query' in a"),
        ("byte_level", normalizer(sought("zebra", type="Replace", content="horse")), "'onehorsetwo'"),
        ("byte_level", before(sought("zebra", type="Split", behavior="Removed", invert=False)), "is read as 'onetwo'"),
        ("byte_level", before({"type": "WhitespaceSplit"}), "'the query' is read as 'thequery'"),
        ("byte_level", before({"type": "CharDelimiterSplit", "delimiter": "\n"}), "'lines\\nof\\n\\ntext"),
        ("prepend", without_bytes, "is read as"),
        ("smollm", lambda d: d["added_tokens"].append(added("<x>", 455, lstrip=True)), "'one <x> two' is read as"),
        ("smollm", lambda d: d["added_tokens"].append(added("<x>", 455, rstrip=True)), "'one <x> two' is read as"),
        ("smollm", lambda d: d["added_tokens"].append(added("<x>", 460)), "'<x>' has the id 460, and the tokenizers"),
        (
            "smollm",
            lambda d: d["added_tokens"].append(added("<think>", 455)),
            "the added token '<think>' is there twice",
        ),
        ("smollm", lambda d: d["added_tokens"].append(added("<x>", 453)), "'<x>' and '<think>' have the same id, 453"),
        ("smollm", lambda d: d["model"]["vocab"].update(zebra=300), "and 'zebra' have the same id, 300"),
        ("smollm", lambda d: d.update(added_tokens=[{"id": 450}]), "its added_tokens are no list of tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_reads_other_text_is_refused_in_one_line(kind, change, says, tmp_path):
    with pytest.raises(ValueError) as error:
        loaded(tmp_path, kind, change)
    assert str(error.value).startswith(f"{tmp_path / 'tokenizer.json'}: ") and "\n" not in str(error.value)
    assert says in str(error.value)


def test_marks_with_odd_flags_are_still_one_token(tmp_path):
    for flags in ({"single_word": True}, {"normalized": True}, {"normalized": True, "single_word": True}):
        tokenizer = loaded(tmp_path, "byte_level", lambda d, flags=flags: d["added_tokens"][2].update(flags))
        ids = tokenizer.encode_prompt("a<|im_end|>b <|im_end|>", "<|im_end|>", "<|im_end|>")
        assert ids.count(tokenizer.eos_id) == 3 and tokenizer.eos_id not in tokenizer.encode("a <|im_end|> b")


def test_pieces_drawn_at_random_are_not(tmp_path):
    tokenizer = loaded(tmp_path, "byte_level", lambda d: d["model"].update(dropout=0.9))
    assert len({tuple(tokenizer.encode("The organizer forks a sub-query")) for _ in range(20)}) == 1


def test_texts_begin_as_the_post_processor_has_it_whatever_the_config_names(tmp_path):
    expected = golden("prepend")
    del expected["config"]["bos_token"]
    tokenizer = load_tokenizer(write(tmp_path, expected["definition"], expected["config"] | {"chat_template": None}))
    assert tokenizer.begin == "<s>" and tokenizer.encode_prompt(tokenizer.begin, "the query")[0] == 1
    assert 1 not in tokenizer.encode("<s>")
    tokenizer.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").begin == "<s>"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"byte_fallback": False}, "is read as"),
        ({"normalization_rule_name": "nmt_nfkc"}, "is read as"),
        ({"remove_extra_whitespaces": True}, "' two  blanks at both ends   ' is read as"),
    ],
)
def test_a_sentencepiece_model_that_reads_other_text_is_refused(options, says, tmp_path):
    path = tmp_path / "tokenizer.model"
    usual = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["the organizer forks a query and joins it <391> = 17*23/ -{}"] * 4),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        vocab_size=300 if (usual | options)["byte_fallback"] else 60,
        minloglevel=2,
        **(usual | options),
    )
    with pytest.raises(ValueError) as error:
        load_tokenizer(tmp_path)
    assert says in str(error.value) and str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_chat_whose_text_is_changed_is_refused(tmp_path):
    expected = golden("prepend")
    expected["definition"]["normalizer"]["normalizers"].insert(0, regex(r"\[INST\]", "[X]"))
    with pytest.raises(ValueError, match=r"the chat '<s>\[INST\] what was asked .* is read as"):
        load_tokenizer(write(tmp_path, expected["definition"], expected["config"]))


def test_hundreds_of_added_tokens_are_looked_at_together(tmp_path):
    def change(definition):
        definition["added_tokens"] += [added(f"<extra_{n}>", 455 + n) for n in range(600)]

    tokenizer = loaded(tmp_path, "smollm", change)
    assert json.loads(json.dumps(tokenizer.encode("<extra_7>"))) == [462]
