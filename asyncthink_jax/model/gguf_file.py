"""Weights in a GGUF file (llama.cpp): metadata to `ModelConfig`, blocks dequantized as they are read.

Llama files have the rows of each query and key head in another order: pairs side by side instead of two halves. `read`
reorders them, so all other code sees the layout of Hugging Face.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quant_shape_to_byte_shape

from asyncthink_jax import stated
from asyncthink_jax.model.hf_config import FAMILIES
from asyncthink_jax.model.model_config import ModelConfig, RopeScaling
from asyncthink_jax.model.parameters import BY_PATH, Naming, rows
from asyncthink_jax.model.tensors import WeightsError, check_sizes
from asyncthink_jax.model.transformer import rope_frequencies
from asyncthink_jax.untrusted.gguf import TensorInfo, read_header

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
_EMBEDDING, _OUTPUT = (BY_PATH[path].name("gguf") for path in ("embed", "unembed"))
ROPE_FREQS = "rope_freqs.weight"  # the divisors of the frequencies, if they are scaled
CHUNK = 1 << 24  # elements dequantized at a time


class GgufFile:
    """`weights.Weights` of a file. Raises WeightsError for a file that is broken or not supported."""

    naming: Naming = "gguf"

    def __init__(self, path: Path):
        self.path = path
        try:
            header = read_header(path)
            data = np.memmap(path, mode="r")
            self._tensors = {one.name: _Tensor(one, data, path) for one in header.tensors}
        except (ValueError, OSError) as error:
            raise WeightsError(str(error)) from error
        metadata = _Metadata(header.metadata, path)
        self.config = self._config(metadata)
        self.context: int | None = metadata.get("context_length", int, None) or None
        self.special_tokens: dict[str, Any] = {}
        # Text, turn and message each have an end token.
        for key, names in (("bos", ["bos"]), ("eos", ["eos", "eot", "eom"]), ("pad", ["padding"])):
            found = [id_ for name in names for id_ in metadata.token_ids(name, self.config.vocab_size)]
            if ids := list(dict.fromkeys(found)):
                self.special_tokens[f"{key}_token_id"] = ids if len(ids) > 1 else ids[0]
        reordered = [row for row in rows(self.config) if row.rope and metadata.family.gguf_pairs]
        self._paired = {row.name("gguf", layer) for row in reordered for layer in range(self.config.layers)}

    def _config(self, metadata: "_Metadata") -> ModelConfig:
        get = metadata.get
        width, heads = get("embedding_length", int), get("attention.head_count", int)
        head_dim = get("attention.key_length", int, width // heads)
        for name, expected in (
            ("rope.dimension_count", head_dim),
            ("attention.value_length", head_dim),
            ("expert_count", 0),
            ("attention.sliding_window", 0),
        ):
            found = get(name, int, expected)
            if found != expected:
                raise WeightsError(f"{self.path}: {name} is {found}, only {expected} is supported")
        # Old files state only a factor, which llama.cpp takes as linear scaling.
        factors = {get(name, float, 1.0) for name in ("rope.scaling.factor", "rope.scale_linear")} - {0.0, 1.0}
        scaling = get("rope.scaling.type", str, "linear" if factors else "none")
        if scaling != "none":
            raise WeightsError(f"{self.path}: rope scaling {scaling!r} is not supported, only that of Llama 3")
        if _EMBEDDING not in self._tensors:
            raise WeightsError(f"{self.path}: tensor {_EMBEDDING} is missing")
        config = ModelConfig(
            vocab_size=get("vocab_size", int, self.shapes()[_EMBEDDING][0]),
            layers=get("block_count", int),
            width=width,
            heads=heads,
            kv_heads=get("attention.head_count_kv", int, heads),
            head_dim=head_dim,
            mlp_width=get("feed_forward_length", int),
            rope_theta=get("rope.freq_base", float, 1e4),
            norm_eps=get("attention.layer_norm_rms_epsilon", float),
            tied_embeddings=_OUTPUT not in self._tensors,
            **metadata.family.fields,
        )
        check_sizes(config, self.shapes(), str(self.path))
        return self._with_rope_scaling(config)

    def _with_rope_scaling(self, config: ModelConfig) -> ModelConfig:
        """The config with the scaling that gives `rope_freqs.weight`: the file has only the result of the scaling."""
        if ROPE_FREQS not in self._tensors:
            return config
        if self._tensors[ROPE_FREQS].shape != (config.head_dim // 2,):
            raise WeightsError(f"{self.path}: {ROPE_FREQS} is not the scaling of Llama 3, no other is supported")
        divided_by = self._dequantized(ROPE_FREQS, slice(None))
        scaled = dataclasses.replace(config, rope_scaling=RopeScaling(factor=float(divided_by.max())))
        expected = np.asarray(rope_frequencies(config) / rope_frequencies(scaled))
        if not np.allclose(divided_by, expected, rtol=1e-3):
            raise WeightsError(f"{self.path}: {ROPE_FREQS} is not the scaling of Llama 3, no other is supported")
        return scaled

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self._tensors.items() if name != ROPE_FREQS}

    def where(self, name: str) -> str:
        return str(self.path)

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        ours, *rest = index
        if name not in self._paired:
            return self._dequantized(name, ours)[slice(None), *rest]
        size = self.config.head_dim
        first, last = ours.start // size * size, -(-ours.stop // size) * size  # whole heads
        pairs = self._dequantized(name, slice(first, last))[slice(None), *rest]
        halves = pairs.reshape(-1, size // 2, 2, *pairs.shape[1:]).swapaxes(1, 2).reshape(pairs.shape)
        return halves[ours.start - first : ours.stop - first]

    def _dequantized(self, name: str, rows: slice) -> np.ndarray:
        """Rows of a tensor, in fp32 and in the order of the file."""
        tensor = self._tensors[name]
        if len(tensor.shape) == 1:
            return dequantize(tensor.data, tensor.kind)[rows]
        step = max(1, CHUNK // tensor.shape[1])
        out = np.empty((rows.stop - rows.start, tensor.shape[1]), np.float32)
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            out[start - rows.start : stop - rows.start] = dequantize(tensor.data[start:stop], tensor.kind)
        return out


class _Tensor:
    """One tensor of a file: its type, its shape in the order of NumPy, and its bytes, row by row."""

    def __init__(self, info: TensorInfo, data: np.ndarray, path: Path):
        """`data`: the bytes of the file. Raises ValueError for an unsupported type and for a truncated file."""
        what = f"{path}: tensor {info.name}"
        try:
            self.kind = GGMLQuantizationType(info.kind)
        except ValueError:
            known = ", ".join(TYPES)
            raise ValueError(f"{what} has type {info.kind}, which is unknown here, expected one of {known}") from None
        if self.kind.name not in TYPES:
            raise ValueError(f"{what} is {self.kind.name}, expected one of {', '.join(TYPES)}")
        self.shape = tuple(reversed(info.shape))
        if not self.shape or 0 in self.shape:
            raise ValueError(f"{what} has the shape {list(self.shape)}")
        try:
            byte_shape = quant_shape_to_byte_shape(self.shape, self.kind)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
        end = info.start + math.prod(byte_shape)
        if end > data.size:
            raise ValueError(f"{path}: no whole GGUF file: tensor {info.name} ends at byte {end} of {data.size}")
        self.data = data[info.start : end].reshape(byte_shape)


class _Metadata:
    """The keys of a file that describe its model."""

    def __init__(self, values: Mapping[str, Any], path: Path):
        self._values, self._path = values, path
        self.architecture = values.get("general.architecture")
        if self.architecture not in FAMILIES:
            raise WeightsError(f"{path}: architecture {self.architecture!r} is not one of {', '.join(FAMILIES)}")
        self.family = FAMILIES[self.architecture]
        parts = values.get("split.count")
        if isinstance(parts, int) and parts > 1:
            raise WeightsError(f"{path} is one of {parts} parts; merge them (llama-gguf-split --merge)")

    def get(self, key: str, kind: type, default: Any = ...) -> Any:
        """The value of `<architecture>.<key>`; a float is the shortest decimal that rounds to the stored fp32."""
        key = f"{self.architecture}.{key}"
        value = self._values.get(key)
        if value is None:
            if default is ...:
                raise WeightsError(f"{self._path}: {key} is missing")
            return default
        what = f"{self._path}: {key}"
        try:
            if kind is int:
                return stated.whole(value, what, least=1 if default is ... else 0)
            if kind is float:
                value = float(str(np.float32(value))) if isinstance(value, float) else value
                is_unset = value == 0 and "rope.scal" in key
                return value if is_unset else stated.positive(value, what)
        except ValueError as error:
            raise WeightsError(str(error)) from None
        if type(value) is not kind:
            raise WeightsError(f"{what} is {str(value)[:50]}, expected a text")
        return value

    def token_ids(self, name: str, vocabulary: int) -> list[int]:
        """The id of `tokenizer.ggml.<name>_token_id`, if it is one of the vocabulary."""
        key = f"tokenizer.ggml.{name}_token_id"
        try:
            return stated.token_ids(self._values.get(key), f"{self._path}: {key}", vocabulary)
        except ValueError as error:
            raise WeightsError(str(error)) from None
