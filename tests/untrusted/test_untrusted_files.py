"""JSON that others wrote, and what stands in place of a file: each refused in one line that says why."""

import json
import os

import pytest

from asyncthink_jax.untrusted.files import check_file, check_inside, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON: Expecting value"),
        (b'{"a": 1', "not JSON: Expecting"),
        (b"[1] [2]", "not JSON: Extra data"),
        (b'"\xff"', "not UTF-8 at byte 2"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is too large"),
        (b"[" + b"7" * 5000 + b"]", "a number of 5000 digits"),
        (b"-" + b"7" * 301, "a number of 302 digits"),
        (b"[" * 101 + b"]" * 101, "more than 100 brackets"),
        (b'{"a":' * 400 + b"1" + b"}" * 400, "more than 100 brackets"),
        (b"[" * 200_000, "more than 100 brackets"),
        (rb'{"a": ["\ud800"]}', r"'\\ud800' is half of a character"),
        (rb'{"\uDFff": 1}', r"'\\udfff' is half of a character"),
    ],
)
def test_what_is_no_json_or_breaks_what_comes_after_is_refused(text, why):
    with pytest.raises(ValueError, match=why) as refused:
        parse_json(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_rows_of_data_may_have_numbers_and_texts_that_are_none():
    assert [str(n) for n in parse_json("[NaN, -Infinity, 1e999]", strict=False)] == ["nan", "-inf", "inf"]
    assert parse_json(r'"\ud800"', strict=False) == "\ud800"
    with pytest.raises(ValueError, match="a number of 5000 digits"):
        parse_json("7" * 5000, strict=False)


def test_json_is_read_as_python_reads_it():
    value = {"big": 10**30, "small": 1e-300, "deep": [[[]]], "\U0001f600": "\\ud800 in words", "none": None}
    assert parse_json(json.dumps(value)) == value
    assert parse_json("\ufeff[1]".encode()) == parse_json("\ufeff[1]") == [1]
    nested = json.loads("[" * 99 + "{}" + "]" * 99)
    assert parse_json(json.dumps(nested)) == nested
    assert float(parse_json("9" * 300)) == 1e300


def test_what_stands_in_place_of_a_file_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        check_file(path)
    path.mkdir()
    with pytest.raises(ValueError, match=r"model\.safetensors is no file"):
        check_file(path)
    path.rmdir()
    for content, why in (
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer.*`git lfs pull`"),
        (b"\n<!DOCTYPE html><title>Not found</title>", "is a web page"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=why):
            check_file(path)


def test_a_file_is_named_and_its_size_bounded(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[1,", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        read_json(path)
    path.write_text("[1]", encoding="utf-8")
    assert read_json(path) == [1]
    with pytest.raises(ValueError, match="has 3 bytes, expected at most 2"):
        read_json(path, most=2)
    path.write_bytes(b"[" + b"[]," * (1 << 21) + b"[]]")
    with pytest.raises(ValueError, match="more than 2097152 lists and objects"):
        read_json(path)
    path.unlink()
    os.mkfifo(path)  # to open it would wait for a writer
    with pytest.raises(ValueError, match="is no file"):
        read_json(path)


def test_a_link_may_not_lead_out_of_the_folder_but_a_snapshot_into_its_blobs(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x", encoding="utf-8")
    folder, hub = tmp_path / "model", tmp_path / "hub/models--a--b"
    snapshot, blobs = hub / "snapshots/1", hub / "blobs"
    for path in (folder, snapshot, blobs):
        path.mkdir(parents=True)
    (blobs / "abc").write_text("x", encoding="utf-8")
    (folder / "own").write_text("x", encoding="utf-8")
    for inside, target in ((folder / "a", "own"), (snapshot / "a", "../../blobs/abc")):
        inside.symlink_to(target)
        check_inside(inside, inside.parent)
    (tmp_path / "linked").symlink_to(folder)
    check_inside(tmp_path / "linked" / "own", tmp_path / "linked")
    up = "../../../../secret"
    for outside, target in ((folder / "b", "../secret"), (folder / "c", secret), (snapshot / "b", up)):
        outside.symlink_to(target)
        with pytest.raises(ValueError, match=r"is a link to .*secret, out of its folder"):
            check_inside(outside, outside.parent)
    (folder / "d").symlink_to(blobs / "abc")  # of another's cache
    with pytest.raises(ValueError, match="out of its folder"):
        check_inside(folder / "d", folder)
