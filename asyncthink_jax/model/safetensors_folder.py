"""Weights in a Hugging Face folder: config.json and one safetensors file, or several with an index."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from asyncthink_jax.model.hf_config import context, from_hf, special_tokens
from asyncthink_jax.model.parameters import BY_PATH, Naming
from asyncthink_jax.model.tensors import WeightsError, check_sizes
from asyncthink_jax.shown import complain
from asyncthink_jax.untrusted.files import check_file, read_json

INDEX = "model.safetensors.index.json"
TYPES = ("F32", "F16", "BF16")
_OUTPUT, _EMBEDDING = (BY_PATH[path].name("hf") for path in ("unembed", "embed"))
_ROWS = 4096  # of a matrix, compared at a time


class SafetensorsFolder:
    """`weights.Weights` of a folder. Raises WeightsError for files that are missing, broken or not supported."""

    naming: Naming = "hf"

    def __init__(self, folder: Path):
        self.path = folder
        data = _read_json(folder / "config.json")
        where = str(folder / "config.json")
        self.config = from_hf(data, where)
        self.context: int | None = context(data, where)
        self.special_tokens: dict[str, Any] = special_tokens(data, where, self.config.vocab_size)
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        files, indexed = _files(folder)
        for file in files:
            self._open(file)
        check_sizes(self.config, self._shapes, where)
        for name, file in indexed.items():
            if self._files.get(name) != file:
                raise WeightsError(f"{file} has no tensor {name}, which {folder / INDEX} says is in it")
        if self.config.tied_embeddings and self._has_another_output():
            self.config = dataclasses.replace(self.config, tied_embeddings=False)
            complain(
                f"{where}: tie_word_embeddings is true, but {_OUTPUT} is not {_EMBEDDING}: the model is read with both"
            )

    def _has_another_output(self) -> bool:
        """Whether the output matrix differs from the embedding. Reads both up to the first difference."""
        if _OUTPUT not in self._shapes or _EMBEDDING not in self._shapes:
            return False
        if self._shapes[_OUTPUT] != self._shapes[_EMBEDDING]:
            return True
        if len(self._shapes[_OUTPUT]) != 2:  # refused later
            return False
        rows = self._shapes[_OUTPUT][0]
        for start in range(0, rows, _ROWS):
            part = (slice(start, min(start + _ROWS, rows)),)
            one, other = (self.read(name, part).astype(np.float32) for name in (_OUTPUT, _EMBEDDING))
            if not np.array_equal(one, other, equal_nan=True):
                return True
        return False

    def _open(self, file: Path) -> None:
        try:
            check_file(file)
            with safe_open(file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118, no mapping
                    tensor = opened.get_slice(name)
                    if tensor.get_dtype() not in TYPES:
                        raise WeightsError(
                            f"{file}: tensor {name} is {tensor.get_dtype()}, expected one of {', '.join(TYPES)}"
                        )
                    if name in self._files:
                        raise WeightsError(f"{file}: tensor {name} is in {self._files[name].name} as well")
                    self._files[name], self._shapes[name] = file, tuple(tensor.get_shape())
        except WeightsError:
            raise
        except (FileNotFoundError, ValueError) as error:
            raise WeightsError(str(error)) from error
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: no whole safetensors file: {' '.join(str(error).split())}") from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def where(self, name: str) -> str:
        return str(self._files.get(name, self.path))

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        # Opened anew each time: otherwise the pages that were read stay mapped.
        with safe_open(self._files[name], framework="numpy") as opened:
            return opened.get_slice(name)[index]


def _files(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """The files with tensors, and the file of each tensor according to the index."""
    single, index = folder / "model.safetensors", folder / INDEX
    if single.is_file():
        return [single], {}
    if not index.is_file():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        hint = "; its pickle files are never read" if pickled else ""
        raise WeightsError(f"{folder} holds neither model.safetensors nor {INDEX}{hint}")
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise WeightsError(f"{index}: weight_map is missing or no map of tensors to files")
    for file in names.values():
        if Path(file).name != file:
            raise WeightsError(f"{index}: {file!r} is no name of a file in the same folder")
    return [folder / file for file in sorted(set(names.values()))], {n: folder / file for n, file in names.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except (FileNotFoundError, ValueError) as error:
        raise WeightsError(str(error)) from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return data
