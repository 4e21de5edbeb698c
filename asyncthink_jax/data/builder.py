"""The problems of a task as a tensorflow-datasets builder: made or read once, stored as array_record files.

TensorFlow is neither needed nor imported: array_record files are read through `as_data_source`.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from asyncthink_jax.files import damaged, naming, record_sums
from asyncthink_jax.shown import complain
from asyncthink_jax.tasks.task import FieldType, Record, Task

_FEATURES: dict[FieldType, Any] = {
    "int": lambda: tfds.features.Scalar(dtype=np.int64),
    "ints": lambda: tfds.features.Tensor(shape=(None,), dtype=np.int64),
    "text": tfds.features.Text,
    "texts": lambda: tfds.features.Sequence(tfds.features.Text()),
}
_PLAIN: dict[FieldType, Any] = {
    "int": int,
    "ints": lambda values: values.tolist(),
    "text": lambda value: value.decode(),
    "texts": lambda values: [value.decode() for value in values],
}


class TaskBuilder(tfds.core.GeneratorBasedBuilder):
    """The splits and records of a task, in their order."""

    name = "problems"
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"2.0.0": "Any task."}
    # Where checksums of downloads would lie: there are none, and looking for them needs importlib_resources, which
    # tensorflow-datasets imports without depending on it.
    code_path = None
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(self, *, task: Task, skip_bad: bool, data_dir: epath.Path):
        self.task, self.skip_bad = task, skip_bad
        super().__init__(data_dir=data_dir, file_format=tfds.core.FileFormat.ARRAY_RECORD)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {name: _FEATURES[kind]() for name, kind in self.task.fields.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"The problems of {self.task.name}.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        records = {split: list(records) for split, records in self.task.records(self.skip_bad).items()}
        # tensorflow-datasets stores no split that is empty.
        return {split: self._generate_examples(records[split]) for split in self.task.split_names if records[split]}

    def _generate_examples(self, records: Iterable[Record]):
        for number, record in enumerate(records):
            yield number, dict(record)


def prepare(data_dir: str | os.PathLike, task: Task, skip_bad: bool = False) -> dict[str, list[Any]]:
    """The problems of every split of a task, read from `data_dir`, and first written if not there.

    What decides about the problems, fields and files, has its own folder under `data_dir`. A preparation that is cut
    off leaves nothing that looks complete, and what is damaged is made again. Where nothing can be written, they are
    made and not kept. Each split comes in a random but fixed order. Raises ValueError where the task has too few
    problems, or a broken line in a file; FileNotFoundError where it has no file.
    """
    folder = Path(data_dir) / folder_of(task, skip_bad)
    stored, aside = folder / TaskBuilder.name / str(TaskBuilder.VERSION), folder / "damaged"
    try:
        if stored.exists():
            if not damaged(stored):
                # Whatever array_record and tensorflow-datasets make of damage, in a run that has no sums.
                with contextlib.suppress(Exception):
                    return _read_all(TaskBuilder(task=task, skip_bad=skip_bad, data_dir=epath.Path(folder)))
            complain(f"warning: the problems in {stored} are damaged, and are made again")
            shutil.rmtree(aside, ignore_errors=True)
            stored.rename(aside)
        try:
            builder = _written(task, skip_bad, folder)
        except BaseException:
            if aside.exists():
                aside.rename(stored)
            raise
        record_sums(stored)
        shutil.rmtree(aside, ignore_errors=True)
        return _read_all(builder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        complain(f"warning: {folder} can't be written: its problems are made, and not kept")
        return task.splits(skip_bad)


def _written(task: Task, skip_bad: bool, folder: Path) -> TaskBuilder:
    builder = TaskBuilder(task=task, skip_bad=skip_bad, data_dir=epath.Path(folder))
    tfds.disable_progress_bar()
    try:
        with naming(folder), contextlib.redirect_stdout(io.StringIO()):  # it announces a download, which there isn't
            builder.download_and_prepare(
                download_dir=builder.data_path.parent / "downloads",
                download_config=tfds.download.DownloadConfig(try_download_gcs=False, register_checksums=False),
            )
    except RuntimeError as error:  # of array_record, whose errors have no number
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(folder)) from error
        raise
    return builder


def _read_all(builder: TaskBuilder) -> dict[str, list[Any]]:
    task = builder.task
    stored = {split: _read(builder.as_data_source(split), task.fields) for split in builder.info.splits}
    return {split: task.problems_of(stored.get(split, [])) for split in task.split_names}


def folder_of(task: Task, skip_bad: bool) -> str:
    """Task and fields that are not as by default, readable, and a digest of all that decides about the problems."""
    fields = task.problem_fields()
    defaults = {field.name: field.default for field in dataclasses.fields(task)}
    changed = [f"{name}_{value}" for name, value in fields.items() if value != defaults[name]]
    files = {path: _sum_of(path) for path in task.files}
    decides = [fields, files, skip_bad and bool(files)]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join([task.name, *changed]))
    return f"{readable[:120]}-{digest}"  # a name has at most 255 characters


def _sum_of(path: str) -> str:
    found = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _read(source, fields: Mapping[str, FieldType]) -> list[Record]:
    records = source.__getitems__(range(len(source)))  # one call: record by record costs ten times as much
    return [{name: _PLAIN[kind](record[name]) for name, kind in fields.items()} for record in records]
