"""Files that a full disk or a kill leaves whole, and damage that is known for what it is."""

import errno
import fcntl
import json
import os
import subprocess
from pathlib import Path

import pytest
from full_disk import files_of_at_most

from asyncthink_jax.files import (
    FileError,
    append,
    check_writable,
    damaged,
    locked,
    name_of,
    read_object,
    record_sums,
    replace_text,
    replacing,
    sealed,
    unsealed,
)


def test_a_full_disk_leaves_the_old_file_and_the_error_names_it(tmp_path):
    path = tmp_path / "results.json"
    replace_text(path, "old")
    with files_of_at_most(100), pytest.raises(OSError) as told:
        replace_text(path, "new" * 100)
    assert told.value.filename == str(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["results.json"]


def test_what_goes_wrong_while_a_file_is_made_leaves_the_old_one(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as draft:
        draft.write_text("new")
        print(1 / 0)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["page.html"]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    replace_text(tmp_path / "pipe", "text")
    assert os.read(reader, 100) == b"text" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    with pytest.raises(OSError) as told:
        replace_text(Path("/dev/full"), "text")
    assert told.value.filename == "/dev/full"


def test_what_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    replace_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"


def test_a_name_of_any_length_and_a_folder_in_its_place(tmp_path):
    replace_text(tmp_path / ("é" * 100 + "x" * 55), "text")
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_text(tmp_path / "taken", "text")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".new")]


def test_an_append_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as file:
        append(file, b"first\n")
        with files_of_at_most(10), pytest.raises(OSError) as told:
            append(file, b"second\n")
        assert told.value.filename == str(path) or told.value.filename == path
        assert path.read_bytes() == b"first\n"
        append(file, b"third\n")
    assert path.read_bytes() == b"first\nthird\n"


def test_whether_a_folder_can_be_written_is_known_at_once(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file can't be written: File exists"):
        check_writable(tmp_path / "file")
    with files_of_at_most(100), pytest.raises(FileError, match="can't be written: File too large"):
        check_writable(tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("async_best_test_t0.7_rollout.top_p=0.9", "async_best_test_t0.7_rollout.top_p=0.9"),
        ("task.files=data/a b.jsonl", "task.files=data-a b.jsonl"),
        ("é" * 200, "é" * 75 + "-"),
        ("..", "..-"),
        ("", "-"),
        ("a\nb\udcff", "a-b--"),
    ],
)
def test_any_text_gives_a_name_of_a_folder_of_its_own(tmp_path, text, name):
    assert name_of(text).startswith(name)
    (tmp_path / name_of(text)).mkdir()
    assert name_of(text) != name_of(text + " ")


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", '{"a": ' * 100_000, f'{{"a": {"9" * 5000}}}', '{"a": "\xff"}'])
def test_what_is_no_json_object_is_told_with_the_file_and_the_remedy(tmp_path, text):
    path = tmp_path / "some.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(FileError, match=r"some\.json (is|holds) .*; remove it") as told:
        read_object(path, "remove it")
    assert "\n" not in str(told.value)


def test_a_byte_order_mark_is_no_damage(tmp_path):
    (tmp_path / "some.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_object(tmp_path / "some.json", "") == {"a": 1}


def test_sums_tell_which_file_is_not_what_it_was(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    assert damaged(tmp_path) == []
    record_sums(tmp_path)
    assert damaged(tmp_path) == []
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.count("OK") == 3
    (tmp_path / "a").write_text("b")
    (tmp_path / "c").unlink()
    assert damaged(tmp_path) == ["a", "c"]
    record_sums(tmp_path, ["b"])
    assert damaged(tmp_path) == []


def test_sums_name_no_file_of_another_folder(tmp_path):
    (tmp_path / "SHA256SUMS").write_text("0  ../a\n0  /etc/passwd\nodd\n\n0  b\n")
    assert damaged(tmp_path) == ["b"]


def test_an_object_with_another_value_than_was_written_is_known():
    value = {"loss": 0.1, "n": 3, "rows": {"a": [1, None, "é"]}}
    kept = sealed(value)
    assert unsealed(json.loads(json.dumps(kept))) == value
    assert unsealed(dict(reversed(kept.items()))) == value, "the order is none of the value"
    assert unsealed(value) == value, "files of before have no checksum"
    for wrong in (kept | {"n": 4}, kept | {"crc32": 1}, kept | {"more": 1}, {**kept, "rows": {"a": [1, None, "e"]}}):
        with pytest.raises(ValueError, match="is not what was written"):
            unsealed(wrong)
    assert unsealed(sealed({"text": "half \ud800"})) == {"text": "half ?"}


# --- Locks.


def test_a_file_is_locked_for_one_at_a_time_and_a_folder_too(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path):
        with locked(path, wait=False) as first, locked(path, wait=False) as second:
            assert first and not second
        with locked(path, wait=False) as again:
            assert again


def test_over_a_network_a_file_is_opened_as_its_locks_need_and_a_folder_without_locks_is_ones_own(
    tmp_path, monkeypatch
):
    """NFS locks what can be written alone; others know no locks."""

    def flock(descriptor, _):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flocked.append(descriptor)

    flocked = []
    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "file").touch()
    with locked(tmp_path / "file", wait=True) as alone:
        assert alone and flocked
    with locked(tmp_path, wait=False) as alone:
        assert alone and len(flocked) == 1
