"""What a row of results says of where it comes from."""

import datetime

import pytest
from checkouts import commit_all

from asyncthink_jax.storage import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with a package, a table and a commit; the module under test believes to be in it."""
    for name in ("package/run.py", "experiments/study.py", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("as committed\n")
    commit_all(tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "package" / "run.py"))
    return tmp_path


def test_the_commit_has_a_mark_where_code_differs_from_it_and_none_for_tables_or_new_files(checkout):
    made = provenance.provenance()
    assert len(made["commit"]) == 40 and made["date"] == datetime.date.today().isoformat() and made["hardware"]
    (checkout / "README.md").write_text("a table that a run has written\n")
    (checkout / "experiments" / "results.json").write_text("{}\n")
    assert provenance.provenance()["commit"] == made["commit"]
    for changed in ("experiments/study.py", "package/run.py"):
        before = (checkout / changed).read_text()
        (checkout / changed).write_text("changed since\n")
        assert provenance.provenance()["commit"] == made["commit"] + "+", changed
        (checkout / changed).write_text(before)


def test_outside_of_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "run.py"))
    assert provenance.provenance()["commit"] == ""
