"""The problems of Countdown as a tensorflow-datasets builder: generated, not downloaded, stored as array_record files.

TensorFlow is neither needed nor imported: array_record files are read through `as_data_source`. A record is a set of
numbers with all its targets, not one problem: the splits are by number set, and the demo's 130,000 problems are read in
1.6 s where one record each took 6.6 s (2 busy cores).
"""

import contextlib
import io
import os
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from asyncthink_jax.tasks import countdown

SPLITS = ("train", "train_few", "validation", "test")


class CountdownBuilder(tfds.core.GeneratorBasedBuilder):
    """Splits `train`, `train_few`, `validation`, `test` of countdown.splits; features numbers, targets, n_solutions."""

    name = "countdown"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    # Where checksums of downloads would lie: there are none, and looking for them needs importlib_resources, which
    # tensorflow-datasets imports without depending on it.
    code_path = None
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(self, *, rules: countdown.Rules, validation_problems: int, test_problems: int, seed: int, data_dir):
        self.rules = rules
        self.sizes = (validation_problems, test_problems)
        self.seed = seed
        super().__init__(data_dir=data_dir, file_format=tfds.core.FileFormat.ARRAY_RECORD)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Multi-solution Countdown: reach the target with the numbers, in several ways.",
            features=tfds.features.FeaturesDict(
                {
                    "numbers": tfds.features.Tensor(shape=(self.rules.numbers,), dtype=np.int64),
                    "targets": tfds.features.Tensor(shape=(None,), dtype=np.int64),
                    "n_solutions": tfds.features.Scalar(dtype=np.int64),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        found = countdown.splits(self.rules, *self.sizes, self.seed)
        return {split: self._generate_examples(found[split]) for split in SPLITS}

    def _generate_examples(self, problems):
        targets: dict[tuple[int, ...], list[int]] = {}
        for problem in problems:
            targets.setdefault(problem.numbers, []).append(problem.target)
        for numbers, of_these in targets.items():
            yield (
                " ".join(map(str, numbers)),
                {
                    "numbers": np.array(numbers, np.int64),
                    "targets": np.array(sorted(of_these), np.int64),
                    "n_solutions": self.rules.n_solutions,
                },
            )


def prepare(
    data_dir: str | os.PathLike,
    rules: countdown.Rules = countdown.DEMO,
    validation_problems: int = 200,
    test_problems: int = 600,
    seed: int = 0,
) -> dict[str, list[countdown.Problem]]:
    """The splits `train`, `train_few`, `validation` and `test`, read from `data_dir`, and first written if not there.

    A set of rules, sizes and seed has its own folder under `data_dir`. A preparation that is cut off leaves nothing
    that looks complete. Each split comes in a random but fixed order. Raises ValueError if the rules give too few.
    """
    name = (
        f"{rules.numbers}_of_{rules.min_number}_to_{rules.max_number}_target_{rules.max_target}"
        f"_solutions_{rules.n_solutions}_validation_{validation_problems}_test_{test_problems}_seed_{seed}"
    )
    builder = CountdownBuilder(
        rules=rules,
        validation_problems=validation_problems,
        test_problems=test_problems,
        seed=seed,
        data_dir=epath.Path(data_dir) / name,
    )
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces a download, which there isn't
        builder.download_and_prepare(
            download_dir=builder.data_path.parent / "downloads",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, register_checksums=False),
        )
    return {split: _read(builder.as_data_source(split)) for split in SPLITS}


def _read(source) -> list[countdown.Problem]:
    problems = [
        countdown.Problem(tuple(int(n) for n in record["numbers"]), int(target), int(record["n_solutions"]))
        for record in source.__getitems__(range(len(source)))  # one call: record by record costs ten times as much
        for target in record["targets"]
    ]
    problems.sort(key=lambda problem: (problem.numbers, problem.target))
    order = np.random.default_rng(0).permutation(len(problems))  # any part of a split is then a fair sample of it
    return [problems[i] for i in order]
