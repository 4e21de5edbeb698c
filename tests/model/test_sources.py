"""Weights from buckets and hubs; a local folder stands in for both."""

import contextlib
import os
import shutil
import sys

import huggingface_hub
import pytest
from etils import epath
from golden_models import GOLDEN

from asyncthink_jax.model import sources
from asyncthink_jax.model.tensors import WeightsError
from asyncthink_jax.model.weights import open_weights


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that gs://bucket is."""
    folder = tmp_path / "bucket"
    shutil.copytree(GOLDEN / "llama3", folder / "model")
    (folder / "model" / "pytorch_model.bin").touch()
    path = epath.Path  # before it is replaced
    monkeypatch.setattr(sources.epath, "Path", lambda source: path(str(source).replace("gs://bucket", str(folder))))
    monkeypatch.delenv("ASYNCTHINK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_a_bucket_is_copied_once(bucket):
    weights = open_weights("gs://bucket/model")
    assert weights.config == open_weights(GOLDEN / "llama3").config
    assert sorted(path.name for path in weights.path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    before = (weights.path / "model.safetensors").stat()
    again = open_weights("gs://bucket/model")
    assert (again.path / "model.safetensors").stat() == before


def test_what_changed_in_the_bucket_is_copied_again_and_what_is_gone_goes(bucket):
    copy = open_weights("gs://bucket/model").path
    file = bucket / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    later = (copy / "model.safetensors").stat().st_mtime + 10
    os.utime(file, (later, later))
    (bucket / "model" / "generation_config.json").unlink()
    (copy / f"x.safetensors{sources.PARTIAL}1").touch()  # a process that was killed was copying it
    assert open_weights("gs://bucket/model").path == copy
    assert (copy / "model.safetensors").read_bytes() == content
    names = sorted(path.name for path in copy.iterdir())
    assert names == ["config.json", "model.safetensors"]


def test_a_copy_that_breaks_off_is_not_taken_for_the_file(bucket, monkeypatch):
    copy_of = type(epath.Path(str(bucket))).copy

    def dies(self, target, **options):
        copy_of(self, target, **options)
        os.truncate(target, 5)
        raise OSError("connection lost")

    monkeypatch.setattr(type(epath.Path(str(bucket))), "copy", dies)
    with pytest.raises(WeightsError, match="gs://bucket/model can't be copied: connection lost"):
        open_weights("gs://bucket/model")
    monkeypatch.undo()
    assert not list((bucket.parent / "cache").rglob("*.*"))


def test_models_whose_addresses_read_alike_have_copies_of_their_own(bucket):
    (bucket / "exp" / "lr").mkdir(parents=True)
    shutil.copytree(GOLDEN / "llama3", bucket / "exp" / "lr_1")
    shutil.copytree(GOLDEN / "qwen3_tied", bucket / "exp" / "lr" / "1")
    one, two = open_weights("gs://bucket/exp/lr_1"), open_weights("gs://bucket/exp/lr/1")
    assert one.path != two.path and one.config != two.config
    assert open_weights("gs://bucket/exp/lr_1/").path == one.path


@pytest.mark.parametrize("name", ["../../escaped.json", "/tmp/escaped.json", "a\\..\\b.json", "a\n.json", "\x1b.json"])
def test_an_object_whose_name_could_be_written_elsewhere_is_refused(bucket, tmp_path, monkeypatch, name):
    path = type(epath.Path(str(bucket)))
    listed = path.iterdir
    monkeypatch.setattr(path, "iterdir", lambda self: [*listed(self), self / name])
    with pytest.raises(WeightsError, match="which is no plain name of a file; remove or rename it") as raised:
        open_weights("gs://bucket/model")
    assert str(raised.value).isprintable()
    assert not list((tmp_path / "cache").rglob("*.*"))


@pytest.mark.parametrize("source", ["gs://bucket/../model", "gs://bucket//model", "http://bucket/model"])
def test_what_is_no_address_is_one_line(bucket, source):
    with pytest.raises(WeightsError, match=r"no plain name|is no address in a bucket"):
        open_weights(source)


def test_processes_that_copy_the_same_model_take_turns(bucket, monkeypatch):
    held = []

    def locked(path, wait):
        assert wait
        held.append(path)
        return contextlib.nullcontext(True)

    monkeypatch.setattr(sources, "locked", locked)
    copy = sources.local_path("gs://bucket/model")
    assert held == [copy]


def test_without_a_home_the_hub_keeps_its_files_beside_the_other_copies(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.update(options) or "x")
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ASYNCTHINK_CACHE", str(tmp_path / "own"))
    sources.local_path("some/model")
    assert asked["cache_dir"] is None
    monkeypatch.setattr(sources.copies, "of_user", lambda: None)
    sources.local_path("some/model")
    assert asked["cache_dir"] == tmp_path / "own" / "huggingface"
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    sources.local_path("some/model")
    assert asked["cache_dir"] is None


def test_what_is_not_in_the_bucket_is_one_line(bucket):
    with pytest.raises(WeightsError, match="gs://bucket/other does not exist"):
        open_weights("gs://bucket/other")


def test_a_hub_id_is_downloaded_without_pickles_and_subfolders(monkeypatch, tmp_path):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return str(GOLDEN / "llama3")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert open_weights("some/model").path == GOLDEN / "llama3"
    assert asked["name"] == "some/model" and asked["ignore_patterns"] == ["*/*"]
    assert not any(name.endswith(("bin", "pt", "pth", "gguf")) for name in asked["allow_patterns"])
    assert sources.local_path("some/model/q4.gguf") == GOLDEN / "llama3" / "q4.gguf"
    assert (asked["name"], asked["allow_patterns"]) == ("some/model", ["q4.gguf"])
    assert sources.local_path("some/model", sources.TOKENIZER_PATTERNS) == GOLDEN / "llama3"
    assert not any(name.endswith(("safetensors", "gguf")) for name in asked["allow_patterns"])


def test_without_the_hub_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as error:
        open_weights("some/model")
    assert str(error.value).startswith("some/model is no local folder or file, and the hub didn't give it: ")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"some/model is no local folder or file; .*: pip install huggingface_hub$"):
        open_weights("some/model")
