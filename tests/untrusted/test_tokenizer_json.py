"""A tokenizer.json within limits: those of releases pass, those that could take all time or memory are refused."""

import base64
import json
from pathlib import Path

import pytest

from asyncthink_jax.untrusted.tokenizer_json import check_definition, check_pattern, panics_refused, steps

GOLDEN = Path(__file__).parents[1] / "data/golden"
# Of releases: GPT-2, Llama 3, Qwen 2, GPT-4o, DeepSeek, BLOOM.
PATTERNS = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lm}]+(?i:'s|'t|'re)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|\s+(?!\S)",
    r" ?[^(\s|[.,!?…。、।،])]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"(?:ab){2}x(a)?",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_releases_pass(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|aa)*b", "(?:a*)*", "((ab?)c)+", "(x+x+)+y", r"(\s*[a-z]{1,9})*$", "(a{2,}){3,}", "(?i:(a|b)+)", 5],
)
def test_patterns_that_backtrack_without_end_are_refused(pattern):
    with pytest.raises(ValueError, match="regular expression"):
        check_pattern(pattern)


def definition(**parts):
    return {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, **parts}


def sequence(*normalizers):
    return {"type": "Sequence", "normalizers": list(normalizers)}


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


DOUBLE = replace({"String": "a"}, "aa")
CHARSMAP = base64.b64encode((4).to_bytes(4, "little") + b"trie" + b"x" * 5000 + b"\0").decode()


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"model": []}, "no tokenizer"),
        ({"model": {"vocab": 7}}, "vocabulary is no JSON object"),
        ({"model": {"vocab": {"a": 2**32 - 1}}}, "token 'a' has the id 4294967295, of 1 tokens"),
        ({"model": {"vocab": {"a": -1}}}, "token 'a' has the id -1"),
        ({"model": {"vocab": {"a": True}}}, "token 'a' has the id True"),
        ({"added_tokens": [{"content": "<x>", "id": 2**32 - 1}]}, "token '<x>' has the id 4294967295, of 3 tokens"),
        ({"added_tokens": ["<x>"]}, "added_tokens are no list of tokens"),
        ({"added_tokens": {"id": 1}}, "added_tokens are no list of tokens"),
        ({"normalizer": sequence(*[DOUBLE] * 40)}, "could make a text 2048 times as long"),
        ({"normalizer": sequence(sequence(*[DOUBLE] * 6), sequence(*[DOUBLE] * 6))}, "2048 times as long"),
        ({"normalizer": replace({"String": "a"}, "b" * 2000)}, "2000 times as long"),
        ({"normalizer": replace({"Regex": "x*"}, "b" * 2000)}, "2001 times as long"),
        ({"normalizer": replace({"Regex": "(a+)+$"}, "b")}, "repeats what repeats"),
        ({"normalizer": replace({"String": ""}, "b")}, "replaces nothing"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}}, "1000000 characters before a text"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}}, "5000 times as long"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": 3}}, "precompiled_charsmap"),
        ({"normalizer": {"type": "Sequence"}}, "Sequence without its steps"),
        ({"normalizer": ["NFC"]}, "no JSON object"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|aa)+"}}}, "repeats what repeats"),
    ],
)
def test_what_could_take_all_time_or_memory_is_refused(parts, why):
    with pytest.raises(ValueError, match=why):
        check_definition(definition(**parts))


def test_steps_are_those_of_all_sequences_in_their_order():
    nested = sequence({"type": "A"}, sequence({"type": "B"}))
    assert [step["type"] for step in steps({"normalizer": nested}, "normalizer")] == ["A", "B"]
    assert steps({}, "normalizer") == steps({"normalizer": None}, "normalizer") == []


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_the_golden_ones_pass(path):
    told = json.loads(path.read_text(encoding="utf-8"))
    if "definition" in told:
        check_definition(told["definition"])


def test_a_panic_is_a_value_error():
    class PanicException(BaseException):
        pass

    with pytest.raises(ValueError, match="fails at it"), panics_refused():
        raise PanicException("retry-limit\nover")
    with pytest.raises(KeyboardInterrupt), panics_refused():
        raise KeyboardInterrupt
