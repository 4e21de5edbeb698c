"""Weights in: golden logits of transformers, sharded reading, and one line for what doesn't fit."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
from golden_models import GOLDEN, NAMES, cached, expected, packed, padded
from safetensors.numpy import load_file, save_file

from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import RopeScaling
from asyncthink_jax.model.parameters import TABLE, Parameter, path_name, rows
from asyncthink_jax.model.tensors import WeightsError, file_tensors
from asyncthink_jax.model.weights import _read_part, load, open_weights


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    weights = open_weights(GOLDEN / name)
    params = load(weights)
    prompts, logits = expected(name)
    for function in (padded, packed, cached):
        for ours, theirs in zip(function(weights.config, params, prompts), logits, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0, err_msg=function.__name__)


def test_the_config_of_a_folder_is_the_models():
    config = open_weights(GOLDEN / "llama3").config
    assert config == transformer.ModelConfig(
        vocab_size=64,
        layers=2,
        width=32,
        heads=4,
        kv_heads=2,
        head_dim=8,
        mlp_width=48,
        rope_theta=1000.0,
        rope_scaling=RopeScaling(factor=8.0, original_context=60),
        norm_eps=1e-5,
        tied_embeddings=False,
        qk_norm=False,
    )
    assert open_weights(GOLDEN / "qwen3_tied").config.tied_embeddings
    assert not open_weights(GOLDEN / "qwen3_untied").config.tied_embeddings
    assert open_weights(GOLDEN / "llama3").context == 128
    assert open_weights(GOLDEN / "llama3").special_tokens == {"bos_token_id": 1, "eos_token_id": 2}


def test_the_table_names_every_parameter_once():
    for name in NAMES:
        weights = open_weights(GOLDEN / name)
        found = {one.name: one.shape for one in file_tensors(weights.config, "hf")}
        assert found == weights.shapes()
        paths = [row.path for row in rows(weights.config)]
        assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_that_the_transformer_makes_are_those_of_the_table(name):
    config = open_weights(GOLDEN / name).config
    made = jax.tree_util.tree_leaves_with_path(transformer.abstract_params(config))
    stacks = {row.path: (config.layers,) * row.in_layers + row.shape(config) for row in rows(config)}
    assert {path_name(path): leaf.shape for path, leaf in made} == stacks


def test_a_bias_of_heads_is_one_axis_in_files():
    config = open_weights(GOLDEN / "llama3").config
    row = Parameter("layers/k/bias", "kv_heads head_dim", "self_attn.k_proj.bias", "attn_k.bias")
    assert row.inputs == () and not row.is_matrix
    assert row.shape(config) == (2, 8) and row.file_shape(config) == (16,)
    stored = {f"model.layers.{layer}.self_attn.k_proj.bias": np.arange(16.0) + 100 * layer for layer in range(2)}
    weights = SimpleNamespace(naming="hf", read=lambda name, index: stored[name][index])
    part = _read_part(weights, row, (2, 2, 8), [(1, 2), (1, 2), (3, 5)], np.dtype("float32"))
    np.testing.assert_array_equal(part, [[[111, 112]]])


@pytest.mark.parametrize("name", ["qwen3_untied", "llama3"])
def test_any_part_of_a_parameter_is_that_part_of_the_whole(name):
    weights = open_weights(GOLDEN / name)
    params = load(weights)
    rng = np.random.default_rng(0)
    for row in TABLE:
        whole = params
        for key in row.path.split("/"):
            whole = whole.get(key) if whole else None
        if whole is None:
            continue
        for _ in range(4):
            bounds = [tuple(sorted(rng.choice(n + 1, 2, replace=False))) for n in whole.shape]
            part = _read_part(weights, row, whole.shape, bounds, np.dtype("float32"))
            np.testing.assert_array_equal(part, whole[tuple(slice(*b) for b in bounds)], err_msg=row.path)


# --- Files: several of them, other types, and what is refused.


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden folder, to be changed."""
    return shutil.copytree(GOLDEN / "qwen3_untied", tmp_path / "model")


def edit_config(folder, **changes):
    path = folder / "config.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def split_in_two(folder):
    """Writes the tensors to two files and an index, as large models are published."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files, names = {}, sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def refusal(folder, config=None):
    """The one line that the weights are refused with, before any tensor is read."""
    with pytest.raises(WeightsError) as error:
        weights = open_weights(folder)
        weights.read = None
        load(weights, config)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value).replace(str(folder.parent), "")


def test_a_model_in_several_files_is_that_in_one(folder):
    whole = load(open_weights(folder))
    split_in_two(folder)
    jax.tree.map(np.testing.assert_array_equal, load(open_weights(folder)), whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_files_give_their_exact_values(folder, dtype):
    edit_tensors(folder, lambda t: t.update({name: x.astype(np.dtype(dtype)) for name, x in t.items()}))
    params = load(open_weights(folder))
    stored = load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_array_equal(params["layers"]["up"]["kernel"][1], stored.astype(np.float32).T)
    kept = load(open_weights(folder), dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {np.dtype(ml_dtypes.bfloat16)}


def test_a_tied_models_second_copy_of_the_embedding_is_ignored(tmp_path, capsys):
    folder = shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "model")
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    jax.tree.map(np.testing.assert_array_equal, load(open_weights(folder)), load(open_weights(GOLDEN / "qwen3_tied")))
    assert capsys.readouterr().err == ""


def test_an_output_matrix_of_its_own_is_kept_whatever_the_flag_says(tmp_path, capsys):
    folder = shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    output = tensors["model.embed_tokens.weight"].copy()
    output[-1, -1] += 1  # the last number alone
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": output}))
    weights = open_weights(folder)
    assert not weights.config.tied_embeddings
    np.testing.assert_array_equal(load(weights)["unembed"], output.T)
    said = capsys.readouterr().err
    assert "tie_word_embeddings is true, but lm_head.weight is not model.embed_tokens.weight" in said
    assert said.count("\n") == 1
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": output[:-1]}))
    assert "lm_head.weight: expected shape [64, 32], got [63, 32]" in refusal(folder)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(UP), f"/model: tensor {UP} is missing, expected [48, 32]"),
        (
            lambda t: t.update({UP: t[UP].T.copy()}),
            f"/model/model.safetensors: tensor {UP}: expected shape [48, 32], got [32, 48]",
        ),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}),
            "/model/model.safetensors: tensor model.layers.0.self_attn.q_proj.bias [32] is not part of the model",
        ),
        (
            lambda t: t.update({UP: t[UP].astype(np.int8)}),
            f"/model/model.safetensors: tensor {UP} is I8, expected one of F32, F16, BF16",
        ),
        (
            lambda t: t.update({"model.embed_tokens.weight": np.zeros((65, 32), np.float32)}),
            "tensor model.embed_tokens.weight: expected shape [64, 32], got [65, 32]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(folder, change, says):
    edit_tensors(folder, change)
    assert says in refusal(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tensor_with_a_number_that_is_not_finite_is_refused(folder, bad):
    def spoil(tensors):
        tensors[UP] = tensors[UP].copy()
        tensors[UP][3, 5] = bad

    edit_tensors(folder, spoil)
    with pytest.raises(WeightsError, match=rf"model.safetensors: tensor {UP} has numbers that are not finite"):
        load(open_weights(folder))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("vocab_size", 63, "/model: vocab_size: expected 63, got 64"),
        ("rope_theta", 1e4, "/model: rope_theta: expected 10000.0, got 1000000.0"),
        ("qk_norm", False, "/model: qk_norm: expected False, got True"),
        (
            "rope_scaling",
            RopeScaling(8),
            "rope_scaling: expected RopeScaling(factor=8, low_frequency_factor=1.0, high_frequency_factor=4.0, ",
        ),
    ],
)
def test_another_config_than_the_files_is_refused(folder, field, value, says):
    config = dataclasses.replace(open_weights(folder).config, **{field: value})
    assert says in refusal(folder, config)


def test_how_to_compute_is_not_compared(folder):
    config = dataclasses.replace(open_weights(folder).config, dtype="bfloat16", remat="full")
    load(open_weights(folder), config)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral' is not one of llama, qwen3"),
        ({"attention_bias": True}, "attention_bias True is not supported, only False"),
        ({"mlp_bias": True}, "mlp_bias True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported, only 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window True is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window attention is not supported"),
        ({"sliding_window": 4096, "use_sliding_window": ...}, "sliding-window attention is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported, only 1"),
        ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5 is not"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "rope type 'yarn' is not supported"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "rope type 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}}, "factor is missing"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope type 'yarn' is not supported",
        ),  # beside the other
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters of full_attention are not",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4} is not supported"),
        ({"hidden_size": "32k"}, "config.json: hidden_size is '32k', expected a whole number above 0"),
        ({"hidden_size": True}, "hidden_size is True, expected a whole number above 0"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5, expected a whole number above 0"),
        ({"intermediate_size": "0x30"}, "intermediate_size is '0x30', expected a whole number above 0"),
        ({"rms_norm_eps": "nan"}, "rms_norm_eps is 'nan', expected a number above 0"),
        ({"max_position_embeddings": "4k"}, "max_position_embeddings is '4k', expected a whole number above 0"),
        ({"max_position_embeddings": -1}, "max_position_embeddings is -1, expected a whole number above 0"),
        ({"eos_token_id": [1, "end"]}, "eos_token_id is 'end', expected a whole number"),
        ({"bos_token_id": False}, "bos_token_id is False, expected a whole number"),
        ({"num_hidden_layers": ...}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight is missing, expected [32]"),
        ({"num_hidden_layers": 10**9}, "config.json: 1000000000 layers are stated, but there are 25 tensors"),
        ({"vocab_size": 2**50}, "vocab size 1125899906842624 is stated, but no tensor has more than 64"),
        ({"head_dim": 10**12}, "head dim 1000000000000 is stated"),
        ({"num_attention_heads": 10**15, "num_key_value_heads": 10**15}, "heads 1000000000000000 is stated"),
        ({"intermediate_size": 10**30}, "intermediate_size is too large"),
        ({"num_key_value_heads": 3}, "4 heads, 3 of keys and values, of 8 entries: the first must be a multiple"),
        ({"head_dim": 7}, "of 7 entries: the first must be a multiple of the second, and the last even"),
        ({"model_type": ["qwen3"]}, "model_type ['qwen3'] is not one of"),
        ({"layer_types": [["full_attention"]]}, "sliding-window"),
        ({"layer_types": 5}, "layer_types 5 is no list"),
        ({"rms_norm_eps": 10**300}, "a number of 301 digits"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, expected true or false"),
        ({"tie_word_embeddings": "true"}, "tie_word_embeddings is 'true', expected true or false"),
    ],
    ids=str,
)
def test_a_config_file_that_would_change_the_results_is_refused(folder, changes, says):
    edit_config(folder, **changes)
    assert says in refusal(folder)


def test_numbers_are_read_however_they_are_written(folder):
    plain = open_weights(folder)
    edit_config(folder, hidden_size="32", num_hidden_layers=2.0, rms_norm_eps="1e-6", max_position_embeddings="4096")
    spelled = open_weights(folder)
    assert spelled.config == plain.config and type(spelled.config.layers) is type(spelled.config.width) is int
    assert spelled.context == 4096
    edit_config(folder, max_position_embeddings=None, head_dim="8.0")
    assert open_weights(folder).context is None and open_weights(folder).config == plain.config


def test_ids_that_no_token_has_are_unset(folder):
    edit_config(folder, bos_token_id=-1, eos_token_id=[2, 2**32 - 1, "5", 64], pad_token_id=64)
    assert open_weights(folder).special_tokens == {"eos_token_id": [2, 5]}  # a list stays one
    edit_config(folder, bos_token_id="1", eos_token_id=[2.0], pad_token_id=None)
    assert open_weights(folder).special_tokens == {"bos_token_id": 1, "eos_token_id": [2]}


def test_the_older_keys_of_the_rotary_embedding_mean_the_same(tmp_path):
    folder = shutil.copytree(GOLDEN / "llama3", tmp_path / "model")
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    theta = rope.pop("rope_theta")
    edit_config(folder, rope_parameters=..., rope_scaling=rope, rope_theta=int(theta))
    assert open_weights(folder).config == open_weights(GOLDEN / "llama3").config
    rope["type"] = rope.pop("rope_type")
    edit_config(folder, rope_scaling=rope)
    assert open_weights(folder).config == open_weights(GOLDEN / "llama3").config


def test_missing_and_broken_files_are_named(folder, tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    files = split_in_two(folder)
    first = folder / "model-00001-of-00002.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files | {UP + "x": first.name}}))
    assert f"{first.name} has no tensor {UP}x" in refusal(folder)
    index.write_text(json.dumps({"weight_map": files | {UP: "../model.safetensors"}}))
    assert "'../model.safetensors' is no name of a file in the same folder" in refusal(folder)
    index.write_text(json.dumps({"weight_map": files}))
    first.write_bytes(first.read_bytes()[:-9])
    assert f"/model/{first.name}: no whole safetensors file: " in refusal(folder)
    first.unlink()
    assert f"/model/{first.name} is missing" in refusal(folder)
    index.unlink()
    (folder / "pytorch_model.bin").touch()
    assert refusal(folder).endswith("; its pickle files are never read")
    (folder / "config.json").write_text("{")
    assert "/model/config.json: not JSON" in refusal(folder)
    (folder / "config.json").write_text("[" * 100_000)
    assert "/model/config.json: not JSON that can be read: more than 100 brackets" in refusal(folder)
    (folder / "config.json").unlink()
    assert "/model/config.json is missing" in refusal(folder)


def test_a_pointer_in_place_of_the_weights_is_named(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "/model/model.safetensors is a git-lfs pointer" in refusal(folder)
