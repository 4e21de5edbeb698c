"""GGUF files, written by the gguf package's own writer and quantizers, against what these dequantize."""

import dataclasses

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from asyncthink_jax import stated
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig, RopeScaling
from asyncthink_jax.model.parameters import rows
from asyncthink_jax.model.tensors import WeightsError, file_tensors
from asyncthink_jax.model.weights import _read_part, load, open_weights

QWEN3 = ModelConfig(
    vocab_size=48, layers=2, width=256, heads=4, kv_heads=2, head_dim=64, mlp_width=256, tied_embeddings=False
)
LLAMA = dataclasses.replace(QWEN3, qk_norm=False, tied_embeddings=True, rope_theta=1e5, norm_eps=1e-5)
Q = gguf.GGMLQuantizationType
BLOCK_BYTES = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}  # of 256 values
SCALES_AT = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}  # the block's fp16 scales


def stored(rng, shape, kind):
    """Random values as a file of type `kind` stores them, one row of bytes for each row of the matrix."""
    if kind not in BLOCK_BYTES:
        return quantize(rng.standard_normal(shape, dtype=np.float32), Q[kind])
    # The package can't quantize to these types: any bytes are a block, if its scales are finite.
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, BLOCK_BYTES[kind]), dtype=np.uint8)
    for at in SCALES_AT[kind]:
        scale = rng.uniform(1e-3, 1e-2, blocks.shape[:2]).astype(np.float16)
        blocks[..., at : at + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1)


def write(path, config, kind, *, edit=lambda keys, tensors: None, freqs=None):
    """Writes a random model; returns its tensors by name, dequantized, in the layout of Hugging Face."""
    rng, expected, tensors = np.random.default_rng(0), {}, {}
    for one in file_tensors(config, "gguf"):
        if len(one.shape) == 1:
            expected[one.name] = rng.standard_normal(one.shape, dtype=np.float32)
            tensors[one.name] = expected[one.name], "F32"
            continue
        data = stored(rng, one.shape, kind)
        expected[one.name] = dequantize(data, Q[kind])
        if not config.qk_norm and one.row.path in ("layers/q/kernel", "layers/k/kernel"):
            # As llama.cpp's converter does: the halves of a head become pairs.
            half = config.head_dim // 2
            data = data.reshape(-1, 2, half, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        tensors[one.name] = data, kind
    if freqs is not None:
        tensors["rope_freqs.weight"] = freqs.astype(np.float32), "F32"
    keys = {
        "block_count": config.layers,
        "context_length": 128,
        "embedding_length": config.width,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.freq_base": config.rope_theta,
    }
    arch = "qwen3" if config.qk_norm else "llama"
    keys = {f"{arch}.{key}": value for key, value in keys.items()} | {"tokenizer.ggml.eos_token_id": 2}
    keys["general.architecture"] = arch
    edit(keys, tensors)
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture"))
    for key, value in keys.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}.get(type(value))
        add(key, value) if add else writer.add_array(key, value)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=Q[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def leaf(params, path):
    for key in path.split("/"):
        params = params[key]
    return params


@pytest.mark.parametrize("config", [QWEN3, LLAMA], ids=["qwen3", "llama"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"])
def test_every_type_is_read_as_the_package_dequantizes_it(tmp_path, config, kind):
    expected = write(tmp_path / "model.gguf", config, kind)
    weights = open_weights(tmp_path / "model.gguf")
    assert weights.config == config
    assert weights.context == 128 and weights.special_tokens == {"eos_token_id": 2}
    params = load(weights)
    for one in file_tensors(config, "gguf"):
        ours = leaf(params, one.row.path)
        ours = np.asarray(ours[one.layer] if one.row.in_layers else ours)
        matrix = expected[one.name] if not one.row.inputs else expected[one.name].T
        np.testing.assert_array_equal(ours, matrix.reshape(ours.shape), err_msg=one.name)


def test_any_part_of_a_parameter_is_that_part_of_the_whole(tmp_path):
    write(tmp_path / "model.gguf", LLAMA, "Q8_0")
    weights = open_weights(tmp_path / "model.gguf")
    params = load(weights)
    rng = np.random.default_rng(0)
    for row in rows(LLAMA):
        whole = leaf(params, row.path)
        for _ in range(3):
            bounds = [tuple(sorted(rng.choice(n + 1, 2, replace=False))) for n in whole.shape]
            part = _read_part(weights, row, whole.shape, bounds, np.dtype("float32"))
            np.testing.assert_array_equal(part, whole[tuple(slice(*b) for b in bounds)], err_msg=row.path)


def test_the_scaled_frequencies_of_llama_3_are_told_by_their_factors(tmp_path):
    plain = dataclasses.replace(LLAMA, rope_theta=5e5)
    scaled = dataclasses.replace(plain, rope_scaling=RopeScaling(factor=32.0))
    factors = np.asarray(transformer.rope_frequencies(plain) / transformer.rope_frequencies(scaled))
    assert factors.min() == 1 and factors.max() == 32 and np.unique(factors.round(3)).size > 3
    write(tmp_path / "model.gguf", plain, "F32", freqs=factors)
    assert open_weights(tmp_path / "model.gguf").config == scaled
    write(tmp_path / "other.gguf", plain, "F32", freqs=np.linspace(1, 32, 32))
    with pytest.raises(WeightsError, match=r"other\.gguf: rope_freqs.weight is not the scaling of Llama 3"):
        open_weights(tmp_path / "other.gguf")


def moved(name, shape):
    return lambda keys, tensors: tensors.update({name: (np.zeros(shape, np.float32), "F32")})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda k, t: k.update({"general.architecture": "gemma"}), "architecture 'gemma' is not one of llama, qwen3"),
        (lambda k, t: k.pop("llama.block_count"), "llama.block_count is missing"),
        (lambda k, t: k.update({"llama.attention.head_count": [4, 4]}), "head_count is [4, 4], expected a whole"),
        (lambda k, t: k.update({"llama.attention.head_count_kv": 0}), "kv heads 0 is stated, must be above 0"),
        (lambda k, t: k.update({"llama.attention.head_count": 0}), "head_count is 0, expected a whole number above 0"),
        (
            lambda k, t: k.update({"llama.attention.head_count": "four"}),
            "head_count is 'four', expected a whole number",
        ),
        (
            lambda k, t: k.update({"llama.embedding_length": 256.5}),
            "embedding_length is 256.5, expected a whole number",
        ),
        (lambda k, t: k.update({"llama.context_length": "4k"}), "llama.context_length is '4k', expected one from 0 on"),
        (lambda k, t: k.update({"tokenizer.ggml.eos_token_id": "end"}), "eos_token_id is 'end', expected a whole"),
        (lambda k, t: k.update({"llama.rope.dimension_count": 32}), "rope.dimension_count is 32, only 64 is supported"),
        (lambda k, t: k.update({"llama.expert_count": 8}), "expert_count is 8, only 0 is supported"),
        (lambda k, t: k.update({"llama.rope.freq_base": 0.0}), "rope.freq_base is 0.0, expected a number above 0"),
        (lambda k, t: k.update({"llama.rope.scaling.type": "yarn"}), "rope scaling 'yarn' is not supported"),
        (lambda k, t: k.update({"llama.rope.scaling.factor": 4.0}), "rope scaling 'linear' is not supported"),
        (lambda k, t: k.update({"llama.rope.scale_linear": 2.0}), "rope scaling 'linear' is not supported"),
        (lambda k, t: k.update({"llama.vocab_size": 49}), "token_embd.weight: expected shape [49, 256], got [48, 256]"),
        (lambda k, t: t.pop("token_embd.weight"), "tensor token_embd.weight is missing"),
        (lambda k, t: t.pop("blk.1.ffn_up.weight"), "tensor blk.1.ffn_up.weight is missing, expected [256, 256]"),
        (lambda k, t: k.update({"llama.block_count": 2**31}), "2147483648 layers are stated, but there are 20 tensors"),
        (
            lambda k, t: k.update({"llama.attention.key_length": 2**31}),
            "head dim 2147483648 is stated",
        ),
        (
            lambda k, t: k.update({"llama.vocab_size": 2**32 - 1}),
            "vocab size 4294967295 is stated",
        ),
        (lambda k, t: k.update({"llama.attention.head_count": 2**32 - 1}), "heads 4294967295 is stated"),
        (moved("blk.0.attn_q.bias", 256), "tensor blk.0.attn_q.bias [256] is not part of the model"),
        (
            lambda k, t: t.update(
                {"blk.0.ffn_up.weight": (quantize(np.ones((256, 256), np.float32), Q.TQ1_0), "TQ1_0")}
            ),
            "tensor blk.0.ffn_up.weight is TQ1_0, expected one of F32, F16, ",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, edit, says):
    write(tmp_path / "model.gguf", LLAMA, "F32", edit=edit)
    with pytest.raises(WeightsError) as error:
        load(open_weights(tmp_path / "model.gguf"))
    assert str(error.value).startswith(f"{tmp_path / 'model.gguf'}: ") and len(str(error.value).splitlines()) == 1
    assert says in str(error.value)


def test_numbers_are_read_however_they_are_written_and_ids_of_no_token_are_unset(tmp_path):
    numbers = {"llama.context_length": "128", "llama.block_count": 2.0, "llama.rope.freq_base": 100_000}
    ends = {f"tokenizer.ggml.{name}_token_id": i for name, i in (("eos", 2), ("eot", "7"), ("eom", 48), ("bos", 1))}
    unset = {"tokenizer.ggml.padding_token_id": 2**32 - 1}
    write(tmp_path / "model.gguf", LLAMA, "F32", edit=lambda k, t: k.update(numbers | ends | unset))
    weights = open_weights(tmp_path / "model.gguf")
    assert weights.config == LLAMA and weights.context == 128
    assert weights.special_tokens == {"bos_token_id": 1, "eos_token_id": [2, 7]}
    assert stated.token_ids([2**64 - 1, -1, 2, None], "ids", 48) == [2]
    unset |= {"llama.context_length": 0, "llama.rope.scaling.factor": 0.0}
    write(tmp_path / "model.gguf", LLAMA, "F32", edit=lambda k, t: k.update(numbers | unset))
    weights = open_weights(tmp_path / "model.gguf")
    assert weights.context is None and weights.special_tokens == {"eos_token_id": 2}


def test_a_file_with_an_output_matrix_is_untied(tmp_path):
    for tied in (True, False):
        write(tmp_path / "model.gguf", dataclasses.replace(LLAMA, tied_embeddings=tied), "F32")
        assert open_weights(tmp_path / "model.gguf").config.tied_embeddings == tied


def test_a_folder_without_a_config_may_hold_one_gguf(tmp_path):
    write(tmp_path / "one.gguf", LLAMA, "F32")
    assert open_weights(tmp_path).path == tmp_path / "one.gguf"
    write(tmp_path / "two.gguf", LLAMA, "F32")
    with pytest.raises(WeightsError, match=r"holds 2 \.gguf files and no config\.json: name one of them$"):
        open_weights(tmp_path)


def test_a_file_that_is_cut_off_or_no_gguf_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write(path, LLAMA, "F32")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"PK\x03\x04" * 20):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"no whole GGUF file|is empty"):
            open_weights(path)


@pytest.mark.parametrize("kind", [42, 31])  # 31 was one once
def test_a_type_that_is_unknown_here_is_named(tmp_path, kind):
    path = tmp_path / "model.gguf"
    write(path, LLAMA, "F32")
    content = path.read_bytes()
    place = content.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    path.write_bytes(content[:place] + kind.to_bytes(4, "little") + content[place + 4 :])
    says = rf"model\.gguf: tensor blk\.0\.attn_q\.weight has type {kind}, which is unknown here, expected one of F32"
    with pytest.raises(WeightsError, match=says):
        open_weights(path)
