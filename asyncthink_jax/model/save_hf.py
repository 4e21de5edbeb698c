"""Weights out: a folder that transformers, vLLM and llama.cpp's converter read.

Everything is written to `<folder>.partial-<process>` beside the folder and moved into place at the end, so a kill never
leaves a folder that looks complete. Tensors leave the devices one layer at a time.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asyncthink_jax.model.hf_config import to_hf
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.safetensors_folder import INDEX
from asyncthink_jax.model.tensors import FileTensor, WeightsError, file_tensors
from asyncthink_jax.model.transformer import Params, abstract_params

TYPES = {"float32": "F32", "bfloat16": "BF16"}


def save_hf(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    dtype: str = "bfloat16",
    *,
    context: int = 32_768,
    special_tokens: Mapping[str, Any] | None = None,
    beside: Sequence[Path] = (),
    tokenizer_config: Mapping[str, Any] | None = None,
    max_file_bytes: int = 5 * 10**9,
) -> None:
    """Writes config.json, generation_config.json and safetensors files.

    Args:
        folder: new or empty.
        params: in any layout, whole on this process's devices.
        dtype: of the files, "bfloat16" or "float32".
        context: tokens that the model was made for (`max_position_embeddings`).
        special_tokens: bos_token_id, eos_token_id, pad_token_id; any of them may be missing.
        beside: files to copy into the folder (a tokenizer's).
        tokenizer_config: the content of tokenizer_config.json, in place of the copied file; None = keep the copy.
        max_file_bytes: largest size of a file's tensors, unless a single tensor is larger.

    Raises:
        WeightsError: the folder is in use or can't be written, or `params` don't fit `config`.
    """
    named, folder = folder, Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{named} is not empty; name a new folder")
    if folder == Path.cwd():
        raise WeightsError(f"{named} is the current folder, which can't be replaced; name another one")
    if not folder.parent.is_dir():
        raise WeightsError(f"{folder.parent} does not exist; make it, or name another folder")
    shapes, wanted = (jax.tree.map(np.shape, tree) for tree in (params, abstract_params(config)))
    if shapes != wanted:
        raise WeightsError("the parameters are not those of the config")
    draft = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    try:
        draft.mkdir()
        _write_tensors(draft, config, params, dtype, max_file_bytes)
        tokens = dict(special_tokens or {})
        _write_json(draft / "generation_config.json", tokens)
        _write_json(draft / "config.json", to_hf(config, dtype, context, tokens))
        for file in beside:
            shutil.copyfile(file, draft / file.name)
        if tokenizer_config is not None:
            _write_json(draft / "tokenizer_config.json", tokenizer_config)
        draft.replace(folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise WeightsError(f"{named} can't be written: {error.strerror}") from error
        raise


def _write_tensors(draft: Path, config: ModelConfig, params: Params, dtype: str, max_file_bytes: int) -> None:
    files: list[list[FileTensor]] = [[]]
    for one in file_tensors(config, "hf"):
        if files[-1] and _bytes([*files[-1], one], dtype) > max_file_bytes:
            files.append([])
        files[-1].append(one)
    names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    if len(files) == 1:
        names = ["model.safetensors"]
    else:
        weight_map = {one.name: name for name, part in zip(names, files, strict=True) for one in part}
        total = sum(_bytes(part, dtype) for part in files)
        _write_json(draft / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for name, part in zip(names, files, strict=True):
        _write_file(draft / name, part, params, dtype)


def _write_file(path: Path, tensors: Sequence[FileTensor], params: Params, dtype: str) -> None:
    """Writes one safetensors file. The package's own writer needs all tensors of a file in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    start = 0
    for one in tensors:
        stop = start + _bytes([one], dtype)
        header[one.name] = {"dtype": TYPES[dtype], "shape": list(one.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in tensors:
            file.write(_matrix(one, params, dtype).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _matrix(one: FileTensor, params: Params, dtype: str) -> np.ndarray:
    """A tensor in the layout of the file."""
    value: Any = params
    for key in one.row.path.split("/"):
        value = value[key]
    value = np.asarray(value[one.layer] if one.row.in_layers else value)
    value = value.transpose([axis for group in one.row.file_axes for axis in group]).reshape(one.shape)
    return np.ascontiguousarray(value, np.dtype(dtype))


def _bytes(tensors: Sequence[FileTensor], dtype: str) -> int:
    return sum(int(np.prod(one.shape)) for one in tensors) * np.dtype(dtype).itemsize


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
