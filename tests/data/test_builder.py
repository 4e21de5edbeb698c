"""The stored problems: the same as made, written once, without TensorFlow or a network."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from asyncthink_jax.data import builder
from asyncthink_jax.files import SUMS
from asyncthink_jax.tasks import Countdown, Task

TASK = Countdown(max_number=10, validation_problems=20, test_problems=30, split_seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    builder.prepare(path, TASK)
    return path


def test_stored_splits_are_those_that_are_made(folder):
    stored = builder.prepare(folder, TASK)
    assert stored == TASK.splits()
    assert [len(stored[name]) for name in ("validation", "test")] == [20, 30]


def test_a_prepared_set_is_read_not_written_again(folder, monkeypatch):
    first = builder.prepare(folder, TASK)
    monkeypatch.setattr(Countdown, "records", lambda *_: pytest.fail("made again"))
    assert builder.prepare(folder, TASK) == first
    assert builder.prepare(folder, dataclasses.replace(TASK, in_order=0.9, demonstrations="oracle")) == first


@pytest.mark.parametrize("change", [{"split_seed": 4}, {"max_target": 90}, {"n_solutions": 3}, {"test_problems": 31}])
def test_what_changes_the_problems_is_another_set(folder, change):
    assert builder.prepare(folder, dataclasses.replace(TASK, **change)) != builder.prepare(folder, TASK)


def test_a_split_may_be_empty(tmp_path):
    task = dataclasses.replace(TASK, n_solutions=1)  # none of its problems has fewer solutions
    assert builder.prepare(tmp_path, task)["train_few"] == []
    assert builder.prepare(tmp_path, task) == task.splits()


def test_a_folder_says_what_is_not_as_by_default():
    name = builder.folder_of(TASK, skip_bad=False)
    assert name.startswith("countdown_tiny-validation_problems_20-test_problems_30-split_seed_3-max_number_10-")
    assert len(builder.folder_of(dataclasses.replace(TASK, split_seed=10**200), skip_bad=False)) < 150


@dataclasses.dataclass(frozen=True)
class Line:
    query: str
    parts: tuple[str, ...]

    def to_json(self):
        return {"query": self.query, "parts": list(self.parts)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromFile(Task[Line]):
    """Problems from lines of texts, `query|part|part`; a broken one has no |."""

    name: str = "from_file"
    path: str = ""

    fields: ClassVar[Mapping[str, str]] = {"query": "text", "parts": "texts"}
    instructions = ""

    @property
    def files(self):
        return (self.path,)

    def records(self, skip_bad=False):
        lines = Path(self.path).read_text(encoding="utf-8").splitlines()
        good = [line.split("|") for line in lines if "|" in line]
        if len(good) < len(lines) and not skip_bad:
            raise ValueError(f"{self.path}, line 2: no |")
        records = [{"query": query, "parts": parts} for query, *parts in good]
        return {"train": records, "validation": records[:1], "test": iter(records[:2])}

    def problems(self, record):
        return [Line(record["query"], tuple(record["parts"]))]

    def from_json(self, record):
        raise NotImplementedError

    def score(self, problem, answer):
        raise NotImplementedError

    def merge(self, answers):
        raise NotImplementedError


def test_texts_of_any_language_and_length_come_back_in_the_order_of_the_records(tmp_path):
    file = tmp_path / "lines"
    file.write_text("|".join(["grün", "", "日本", "x" * 100_000]) + "\n" + "\n".join(f"{n}|" for n in range(50)))
    task = FromFile(path=str(file))
    stored = builder.prepare(tmp_path / "data", task)
    assert stored == task.splits() and len(stored["train"]) == 51
    assert Line("grün", ("", "日本", "x" * 100_000)) in stored["train"]


def test_a_file_that_has_changed_is_read_again(tmp_path):
    file = tmp_path / "lines"
    file.write_text("a|b\nc|d\n")
    before = builder.prepare(tmp_path / "data", FromFile(path=str(file)))
    file.write_text("a|b\nc|e\n")
    after = builder.prepare(tmp_path / "data", FromFile(path=str(file)))
    assert {line.parts for line in before["train"]} == {("b",), ("d",)}
    assert {line.parts for line in after["train"]} == {("b",), ("e",)}


def test_broken_lines_stop_also_after_they_were_skipped(tmp_path):
    file = tmp_path / "lines"
    file.write_text("a|b\nbroken\n")
    task = FromFile(path=str(file))
    assert len(builder.prepare(tmp_path / "data", task, skip_bad=True)["train"]) == 1
    with pytest.raises(ValueError, match=r"lines, line 2: no \|$"):
        builder.prepare(tmp_path / "data", task)


def test_files_are_array_records(folder):
    assert len(list(folder.rglob("*.array_record*"))) >= 4


def test_nothing_imports_tensorflow(folder):
    code = (
        "import sys; from asyncthink_jax.data import builder; from asyncthink_jax.tasks import Countdown;"
        f"builder.prepare({str(folder)!r}, Countdown(max_number=10, validation_problems=20, test_problems=30,"
        "split_seed=3)); sys.exit('tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout == "", result.stderr


def test_stored_problems_that_are_damaged_are_made_again(folder, tmp_path, capsys):
    first = builder.prepare(folder, TASK)
    copy = shutil.copytree(folder, tmp_path / "data")
    stored = next(copy.glob("*/problems/*"))
    names = sorted(path.name for path in stored.iterdir())
    for place, name in enumerate(name for name in names if name != SUMS):
        whole = (stored / name).read_bytes()
        damage = (whole[: len(whole) // 2], b"", whole[:99] + bytes([whole[99] ^ 1]) + whole[100:], None)[place % 4]
        if damage is None:
            (stored / name).unlink()
        else:
            (stored / name).write_bytes(damage)
        assert builder.prepare(copy, TASK) == first
        assert capsys.readouterr().err == f"warning: the problems in {stored} are damaged, and are made again\n"
        assert sorted(path.name for path in stored.iterdir()) == names
    assert [path.name for path in stored.parents[1].iterdir()] == ["problems"]


def test_damaged_problems_stay_where_they_cannot_be_made_again(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "data")
    stored = next(copy.glob("*/problems/*"))
    (stored / "features.json").write_text("{")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="no source"):
        patch.setattr(Countdown, "records", lambda *_: exec("raise ValueError('no source')"))
        builder.prepare(copy, TASK)
    assert (stored / "features.json").read_text() == "{" and len(list(stored.iterdir())) > 2
