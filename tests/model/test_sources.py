"""Weights from buckets and hubs; a local folder stands in for both."""

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
    (copy / f"x.safetensors{sources.PARTIAL}1").touch()  # another process is copying it
    assert open_weights("gs://bucket/model").path == copy
    assert (copy / "model.safetensors").read_bytes() == content
    names = sorted(path.name for path in copy.iterdir())
    assert names == ["config.json", "model.safetensors", f"x.safetensors{sources.PARTIAL}1"]


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
