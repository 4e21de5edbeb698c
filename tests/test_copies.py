"""The folder for what can be fetched again, with and without a home, and names that can't leave it."""

import os
import subprocess
import sys

import pytest

from asyncthink_jax import copies

root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch, tmp_path):
    for name in (copies.FOLDER, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(copies.tempfile, "tempdir", str(tmp_path / "tmp"))
    copies._temporary.cache_clear()
    yield
    copies._temporary.cache_clear()


def test_the_folder_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert copies.folder() == tmp_path / ".cache" / "asyncthink_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert copies.folder() == tmp_path / "own" / "asyncthink_jax"
    monkeypatch.setenv(copies.FOLDER, str(tmp_path / "named"))
    assert copies.folder() == tmp_path / "named"


def without_home(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(copies.Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError)))


def test_a_user_without_a_home_has_a_private_folder_among_the_temporary_ones(monkeypatch, tmp_path):
    without_home(monkeypatch)
    found = copies.folder()
    assert found == tmp_path / "tmp" / f"asyncthink_jax-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    copies._temporary.cache_clear()
    assert copies.folder() == found, "the same one for the next process"


@pytest.mark.parametrize("home", ["file", pytest.param("read-only", marks=root)])
def test_so_has_one_whose_home_cannot_be_written(monkeypatch, tmp_path, home):
    (tmp_path / "file").touch()
    (tmp_path / "read-only").mkdir(mode=0o555)
    monkeypatch.setenv("HOME", str(tmp_path / home))
    assert copies.folder().parent == tmp_path / "tmp"


@pytest.mark.parametrize("taken_by", ["link", "file", "open folder"])
def test_a_name_that_somebody_has_taken_is_not_used(monkeypatch, tmp_path, taken_by):
    without_home(monkeypatch)
    name = tmp_path / "tmp" / f"asyncthink_jax-{os.getuid()}"
    if taken_by == "link":
        (tmp_path / "elsewhere").mkdir()
        name.symlink_to(tmp_path / "elsewhere")
    elif taken_by == "file":
        name.touch()
    else:
        name.mkdir()
        name.chmod(0o777)
    found = copies.folder()
    assert found != name and found.parent == tmp_path / "tmp" and found.stat().st_mode & 0o777 == 0o700


def test_a_process_without_home_and_without_an_entry_among_the_users_has_a_folder(tmp_path):
    """As in a pod that runs under a number of its own."""
    code = (
        "import pathlib, pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from asyncthink_jax import copies\n"
        "print(copies.folder())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", copies.FOLDER)}
    environment |= {"TMPDIR": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / f"asyncthink_jax-{os.getuid()}")


@pytest.mark.parametrize(
    "other", ["gs://b/exp/lr/1", "gs://b/exp/lr_1", "gs://b/exp_lr_1", "gs://b/EXP/lr-1", "s3://b/exp/lr-1"]
)
def test_addresses_that_read_alike_have_copies_of_their_own(other):
    one, two = copies.copy_of("gs://b/exp/lr-1"), copies.copy_of(other)
    assert one.parent == two.parent and one.name.lower() != two.name.lower()


def test_a_long_address_has_a_name_of_a_length_that_files_may_have():
    one, two = copies.copy_of(f"gs://b/{'x' * 900}/1"), copies.copy_of(f"gs://b/{'x' * 900}/2")
    assert len(one.name) < 120 and one != two


def test_an_address_has_one_spelling():
    assert copies.checked_address("gs://b/runs/one//") == copies.checked_address("gs://b/runs/one") == "gs://b/runs/one"


@pytest.mark.parametrize("address", ["http://b/a", "file:///etc", "://", "GS://b/a", "gs:b"])
def test_what_is_no_address_is_refused_in_a_line(address):
    with pytest.raises(ValueError, match=r"is no address in a bucket: gs://"):
        copies.checked_address(address)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "b/../c", "b/a/..", "b/./a", "b//a", "b/a\\..\\c", "b/a\nb", "b/\x1b[2J", "b/\0", f"b/{'x' * 256}"],
)
def test_an_address_with_a_part_that_is_no_name_is_refused_in_a_line(path):
    with pytest.raises(ValueError, match=r"has a part that is no plain name") as raised:
        copies.checked_address(f"gs://{path}")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["config.json", "a b", ".hidden", "...", "t=1:2*", "é", "x" * 255])
def test_plain_names_are_those_of_one_file(name):
    assert copies.is_plain(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0", "a\n", "\x1b[2J", "\u202e", "x" * 256]
)
def test_others_are_not(name):
    assert not copies.is_plain(name)
