"""Rows out of files that others made, and what is said of those that are broken."""

import importlib.util
import json

import pyarrow
import pyarrow.parquet
import pytest

from asyncthink_jax.tasks import sources

ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": "zwölf"}]


def written(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def text_of(row):
    return sources.text(sources.column(row, "", ("text",), "task.text"), "text")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_rows_of_every_kind_of_file_come_in_their_order(tmp_path, suffix):
    assert sources.read(written(tmp_path / f"rows.{suffix}"), text_of) == ["one", "zwölf"]


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\n  \n{"text": "two"}')
    assert sources.read(str(path), text_of) == ["one", "two"]


BROKEN = [
    (b'{"text": "a"', "no JSON: Expecting ',' delimiter"),
    (b'{"text": "\xff"}', "not UTF-8 at byte 11"),
    (b"[1, 2]", r"\[1, 2\] is no object of columns"),
    (b'{"other": "a"}', "none of the columns text among other: task.text says which it is"),
    (b'{"text": "  "}', "the text is , not a text"),
    (b'{"text": 7}', "the text is 7, not a text"),
    (b'{"text": "\\ud800"}', "the text is no Unicode text"),
    (b"[" * 100_000, "no JSON that can be read"),
    (b"1" * 10_000, "no JSON that can be read"),
]


@pytest.mark.parametrize("line, message", BROKEN)
def test_a_broken_line_is_one_line_with_file_and_line_number(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: {message}.*data\.skip_bad") as caught:
        sources.read(str(path), text_of)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_broken_lines_are_reported_counted_and_left_out_if_asked(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + b"".join(line + b"\n" for line, _ in BROKEN) + b'{"text": "two"}\n')
    assert sources.read(str(path), text_of, skip_bad=True) == ["one", "two"]
    said = capsys.readouterr().err.splitlines()
    assert [line.split("rows.jsonl:")[1].split(":")[0] for line in said[:-1]] == [str(n) for n in range(2, 11)]
    assert said[-1].endswith("rows.jsonl: 9 broken of 11 rows left out")


def test_of_very_many_broken_lines_the_first_few_are_reported_and_all_counted(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + b"{\n" * 1000)
    assert sources.read(str(path), text_of, skip_bad=True) == ["one"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == sources.REPORTED + 1 and "1000 broken of 1001" in said[-1]


def test_a_source_without_a_usable_row_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{\n")
    with pytest.raises(ValueError, match="no row that can be used"):
        sources.read(str(path), text_of, skip_bad=True)


@pytest.mark.parametrize(
    "name, content", [("rows.parquet", b"not one"), ("rows.json", b'{"text": "a"}'), ("rows.json", b"[")]
)
def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        sources.read(str(tmp_path / name), text_of)


def test_a_missing_file_is_named(tmp_path):
    for ask in (lambda path: sources.read(path, text_of), lambda path: sources.files([path])):
        with pytest.raises(FileNotFoundError, match=r"no file .*rows\.jsonl"):
            ask(str(tmp_path / "rows.jsonl"))


def test_only_files_are_watched_for_changes(tmp_path):
    path = written(tmp_path / "rows.jsonl")
    assert sources.files([path, "owner/name"]) == [path]


def test_a_column_is_found_by_its_usual_names_in_any_case_or_by_the_one_that_is_given():
    row = {"Question": "q", "Problem": "p", "mine": "m"}
    assert sources.column(row, "", ("problem", "question"), "task.question") == "p"
    assert sources.column(row, "mine", ("problem",), "task.question") == "m"
    with pytest.raises(ValueError, match=r"no column 'yours' among Question, Problem, mine: task\.question says"):
        sources.column(row, "yours", ("problem",), "task.question")


@pytest.mark.parametrize("name", ["rows.csv", "rows", "a/b/c/d", "/rows/", "a//b"])
def test_a_name_that_is_neither_file_nor_dataset_says_what_there_could_be(name):
    with pytest.raises(
        ValueError, match=r"neither a file that ends with \.jsonl, \.json, \.parquet nor a dataset owner/name"
    ):
        sources.read(name, text_of)


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed")
def test_a_dataset_of_the_hub_without_its_package_says_what_to_install():
    with pytest.raises(ValueError, match=r"'owner/name:test' is on the Hugging Face hub.*pip install datasets"):
        sources.read("owner/name:test", text_of)


def test_a_dataset_is_read_as_the_hub_gives_it(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    (tmp_path / "owner" / "name").mkdir(parents=True)  # what looks like a name of the hub may be a folder too
    written(tmp_path / "owner" / "name" / "test.jsonl")
    monkeypatch.chdir(tmp_path)
    assert sources.read("owner/name:test", text_of) == ["one", "zwölf"]
    with pytest.raises(ValueError, match="'owner/name:train' can't be read from the Hugging Face hub"):
        sources.read("owner/name:train", text_of)


def test_a_label_is_the_name_without_all_that_surrounds_it():
    assert list(sources.labels(["gs://bucket/data/aime24.jsonl", "owner/name:test"]).values()) == ["aime24", "name"]


def test_two_labels_are_never_the_same():
    called = [
        "x/aime24/test.jsonl",
        "amc23/test.json",
        "test.parquet",
        "owner/name:test",
        "owner/name",
        "other/name:test",
    ]
    assert list(sources.labels(called).values()) == [
        "aime24/test",
        "amc23/test",
        "test.parquet",
        "owner/name:test",
        "name:train",
        "other/name:test",
    ]
    assert len(set(sources.labels(["/test.jsonl", "/a/test.jsonl", "a/test.jsonl", "a/test.json"]).values())) == 4
