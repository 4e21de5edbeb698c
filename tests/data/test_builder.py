"""The stored problems: the same as generated, written once, without TensorFlow or a network."""

import subprocess
import sys

import pytest

from asyncthink_jax.data import builder
from asyncthink_jax.tasks import countdown

RULES = countdown.Rules(max_number=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    builder.prepare(path, RULES, validation_problems=20, test_problems=30, seed=3)
    return path


def test_stored_splits_are_the_generated_ones(folder):
    stored = builder.prepare(folder, RULES, validation_problems=20, test_problems=30, seed=3)
    generated = countdown.splits(RULES, validation_problems=20, test_problems=30, seed=3)
    assert {name: set(problems) for name, problems in stored.items()} == {
        name: set(problems) for name, problems in generated.items()
    }
    assert [len(stored[name]) for name in ("validation", "test")] == [20, 30]


def test_a_prepared_set_is_read_not_written_again(folder, monkeypatch):
    first = builder.prepare(folder, RULES, 20, 30, 3)
    monkeypatch.setattr(countdown, "splits", lambda *_: pytest.fail("generated again"))
    assert builder.prepare(folder, RULES, 20, 30, 3) == first


def test_other_rules_sizes_or_seeds_are_other_sets(folder):
    other = builder.prepare(folder, RULES, validation_problems=20, test_problems=30, seed=4)
    assert other != builder.prepare(folder, RULES, validation_problems=20, test_problems=30, seed=3)


def test_files_are_array_records(folder):
    assert len(list(folder.rglob("*.array_record*"))) >= 4


def test_nothing_imports_tensorflow(folder):
    code = (
        "import sys; from asyncthink_jax.data import builder; from asyncthink_jax.tasks import countdown;"
        f"builder.prepare({str(folder)!r}, countdown.Rules(max_number=10), 20, 30, 3);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout == "", result.stderr
