"""Weights out: what is written and opened again is the same bits, and what transformers computes from it the same."""

import json
import shutil

import jax
import numpy as np
import pytest
from golden_models import GOLDEN, NAMES
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from asyncthink_jax.model import save_hf as save_lib
from asyncthink_jax.model.hf_config import FAMILIES, from_hf, to_hf
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.save_hf import save_hf
from asyncthink_jax.model.tensors import WeightsError
from asyncthink_jax.model.weights import load, open_weights


def tensors_of(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype and value.shape == theirs[name].shape
        assert value.tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_read_is_written_bit_by_bit(tmp_path, name, dtype):
    source = shutil.copytree(GOLDEN / name, tmp_path / "source")
    tensors = {name: x.astype(np.dtype(dtype)) for name, x in tensors_of(source).items()}
    save_file(tensors, source / "model.safetensors")
    weights = open_weights(source)
    save_hf(tmp_path / "out", weights.config, load(weights), dtype)  # through fp32 parameters
    same_bits(tensors_of(tmp_path / "out"), tensors)
    assert open_weights(tmp_path / "out").config == weights.config


def test_a_large_model_is_several_files_with_an_index(tmp_path):
    weights = open_weights(GOLDEN / "llama3")
    params = load(weights)
    save_hf(tmp_path / "one", weights.config, params, "float32")
    save_hf(tmp_path / "many", weights.config, params, "float32", max_file_bytes=30_000)
    files = sorted(tmp_path.glob("many/*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert all(file.stat().st_size < 35_000 for file in files)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    for file in files:
        with safe_open(file, "numpy") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert {name for name, where in index["weight_map"].items() if where == file.name} == set(opened.keys())
    same_bits(tensors_of(tmp_path / "many"), tensors_of(tmp_path / "one"))
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors_of(tmp_path / "one").values())
    jax.tree.map(np.testing.assert_array_equal, load(open_weights(tmp_path / "many")), params)


def test_the_config_says_what_transformers_and_vllm_ask(tmp_path):
    weights = open_weights(GOLDEN / "llama3")
    (tmp_path / "tokenizer.model").write_bytes(b"tokenizer")
    save_hf(
        tmp_path / "out",
        weights.config,
        load(weights),
        context=128,
        special_tokens={"eos_token_id": [2, 3]},
        beside=[tmp_path / "tokenizer.model"],
    )
    data = json.loads((tmp_path / "out" / "config.json").read_text())
    assert data["architectures"] == ["LlamaForCausalLM"] and data["model_type"] == "llama"
    assert data["rope_theta"] == 1000.0 and data["rope_scaling"]["rope_type"] == "llama3"
    assert data["torch_dtype"] == "bfloat16" and data["max_position_embeddings"] == 128
    assert data["eos_token_id"] == [2, 3]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": [2, 3]}
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"tokenizer"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_is_written_as_that_of_its_family(name):
    config = ModelConfig(8, 2, 32, heads=4, kv_heads=2, head_dim=8, mlp_width=48, **FAMILIES[name].fields)
    data = to_hf(config, "bfloat16", 64, {})
    assert data["model_type"] == name and data["architectures"] == [FAMILIES[name].architecture]
    assert from_hf(data, "config.json") == config


def test_a_write_that_breaks_off_leaves_no_folder(tmp_path, monkeypatch):
    weights = open_weights(GOLDEN / "llama3")
    params, written = load(weights), []

    def dies(one, *arguments):
        written.append(one)
        if len(written) == 9:
            raise KeyboardInterrupt
        return matrix(one, *arguments)

    matrix = save_lib._matrix
    monkeypatch.setattr(save_lib, "_matrix", dies)
    with pytest.raises(KeyboardInterrupt):
        save_hf(tmp_path / "out", weights.config, params)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path):
    weights = open_weights(GOLDEN / "llama3")
    params = load(weights)
    with pytest.raises(WeightsError, match="the parameters are not those of the config"):
        save_hf(tmp_path / "out", open_weights(GOLDEN / "qwen3_tied").config, params)
    with pytest.raises(WeightsError, match="nowhere does not exist"):
        save_hf(tmp_path / "nowhere" / "out", weights.config, params)
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="is not empty; name a new folder"):
        save_hf(tmp_path, weights.config, params)
    (tmp_path / "empty").mkdir()
    save_hf(tmp_path / "empty", weights.config, params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
