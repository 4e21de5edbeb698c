"""Rows out of files that others made, and what is said of those that are broken."""

import csv
import decimal
import gzip
import importlib.util
import io
import json
import os
import sys
import tracemalloc
import types

import pyarrow
import pyarrow.parquet
import pytest

from asyncthink_jax.tasks import row_files, row_sources
from asyncthink_jax.tasks.row_sources import Column

ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": "zwölf"}]


def written(path, rows=ROWS):
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "parquet":
        pyarrow.parquet.write_table(rows if isinstance(rows, pyarrow.Table) else pyarrow.Table.from_pylist(rows), path)
        return str(path)
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif kind == "json":
        text = json.dumps(rows)
    else:
        file = io.StringIO()
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
        table.writeheader()
        table.writerows(rows)
        text = file.getvalue()
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def read(path, named="", skip_bad=False):
    """The texts in the column `text`, or the one that is named."""
    columns = {"text": Column(["text"], named, "task.text")}
    return row_sources.read(str(path), columns, lambda row: row_sources.text(row["text"], "text"), skip_bad)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "json.gz", "csv.gz", "JSONL"])
def test_rows_of_every_kind_of_file_come_in_their_order(tmp_path, suffix):
    assert read(written(tmp_path / f"rows.{suffix}")) == ["one", "zwölf"]


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\n  \n{"text": "two"}')
    assert read(path) == ["one", "two"]


BROKEN = [
    (b'{"text": "a"', "not JSON: Expecting ',' delimiter"),
    (b'{"text": "\xff"}', "not UTF-8 at byte 11"),
    (b"[1, 2]", r"\[1, 2\] is no object of columns"),
    (b'{"other": "a"}', "none of the columns text among other: task.text says which it is"),
    (b'{"text": "  "}', "the text is empty"),
    (b'{"text": 7}', "the text is 7, not a text"),
    (b'{"text": "\\ud800"}', "the text is no Unicode text"),
    (b"[" * 100_000, "not JSON that can be read"),
    (b"1" * 10_000, "not JSON that can be read"),
]


@pytest.mark.parametrize("line, message", BROKEN)
def test_a_broken_line_is_one_line_with_file_and_line_number(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: {message}.*data\.skip_bad") as caught:
        read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_broken_lines_are_reported_counted_and_left_out_if_asked(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + b"".join(line + b"\n" for line, _ in BROKEN) + b'{"text": "two"}\n')
    assert read(path, skip_bad=True) == ["one", "two"]
    said = capsys.readouterr().err.splitlines()
    assert [line.split("rows.jsonl:")[1].split(":")[0] for line in said[:-1]] == [str(n) for n in range(2, 11)]
    assert said[-1].endswith("rows.jsonl: 9 broken of 11 rows left out")


def test_of_very_many_broken_lines_the_first_few_are_reported_and_all_counted(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + b"{\n" * 1000)
    assert read(path, skip_bad=True) == ["one"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == row_sources.REPORTED + 1 and "1000 broken of 1001" in said[-1]


def test_a_source_without_a_usable_row_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{\n")
    with pytest.raises(ValueError, match="no row that can be used"):
        read(path, skip_bad=True)


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match=r"rows\.jsonl is no file$"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "name, content",
    [
        ("rows.parquet", b"not one"),
        ("rows.json", b"["),
        ("rows.json", b'"text"'),
        ("rows.json", b""),
        ("rows.jsonl.gz", gzip.compress(b'{"text": "one"}\n', mtime=0)[:-9]),
        ("rows.jsonl.gz", b"\x1f\x8bnot one"),
        ("rows.csv", b'text\n"one\n'),
        ("rows.csv", b"text\n\xff\n"),
        ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("rows.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("rows.jsonl", b"<!DOCTYPE html><html></html>"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_long_cell_of_a_table_is_read(tmp_path):
    (tmp_path / "rows.csv").write_text(f"text,solution\none,{'x' * 200_000}\n")
    assert read(tmp_path / "rows.csv") == ["one"]


def test_a_missing_file_is_named(tmp_path):
    for ask in (lambda path: read(path), lambda path: row_sources.files([path])):
        with pytest.raises(FileNotFoundError, match=r"no file .*rows\.jsonl"):
            ask(str(tmp_path / "rows.jsonl"))


def test_only_files_are_watched_for_changes(tmp_path):
    path = written(tmp_path / "rows.jsonl")
    assert row_sources.files([path, "owner/name"]) == [path]


def found(row, usual=(), named="", **others):
    return Column(usual, named, "task.question", **others).find(row)


def test_a_column_is_found_by_its_usual_names_in_any_case_or_by_the_one_that_is_given():
    row = {"Question": "q", "Problem": "p", "mine": "m"}
    assert found(row, ["problem", "question"]) == ("Problem", "p")
    assert found(row, ["problem"], "mine") == ("mine", "m")
    assert found(row, ["other"], is_needed=False) == ("", None)
    with pytest.raises(ValueError, match=r"no column 'yours' among Question, Problem, mine: task\.question says"):
        found(row, ["problem"], "yours")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"a": {"b": 7}}, "a.b"),
        ({"a.b": 7, "a": {"b": 8}}, "a.b"),
        ({"a": {"b.c": {"d": 7}}}, "a.b.c.d"),
        ({"a.b": {"c": 7}, "a": {"b": 8}}, "a.b.c"),
        ({"a": [{"b": 7}]}, "a.b"),
        ({"a": [[{"b": [{"c": 7}]}]]}, "a.b.c"),
        ({".": 7}, "."),
    ],
)
def test_a_dot_leads_into_a_nested_column_and_may_be_part_of_a_name(row, name):
    assert found(row, named=name) == (name, 7)


@pytest.mark.parametrize(
    ("row", "name"), [({"a": {"b": 7}}, "a.c"), ({"a": 7}, "a.b"), ({"a": [{"b": 7}, {"b": 8}]}, "a.b"), ({}, "a.")]
)
def test_a_nested_column_that_is_not_there_is_told_with_those_that_are(row, name):
    with pytest.raises(ValueError, match=rf"no column '{name}' among {'a.b' if row.get('a') == {'b': 7} else 'a|'}"):
        found(row, named=name)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("one", "one"),
        (["one"], "one"),
        ([["one"]], "one"),
        (("one",), "one"),
        (b"one", "one"),
        ([{"role": "system", "content": "Be good."}, {"role": "user", "content": "one"}], "one"),
        ([{"role": "user", "content": [{"type": "text", "text": "o"}, {"type": "text", "text": "ne"}]}], "one"),
        ([{"type": "text", "text": "o"}, {"text": "ne"}], "one"),
        ({"text": "one"}, "one"),
    ],
)
def test_a_text_counts_in_whatever_it_is_wrapped(value, text):
    assert row_sources.text(value, "text") == text


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "the text is a list of 0, must be one"),
        (["a", "b"], "the text is a list of 2, must be one"),
        ([[[[[[["a"]]]]]]], "not a text"),
        ({"a": "x", "b": "y"}, "the text has the parts a, b: a dot in the column's name leads to one of them"),
        ([{"role": "user", "content": "a"}] * 2, "a chat in which the user speaks 2 times, must be once"),
        ([{"role": "assistant", "content": "a"}], "a chat in which the user speaks 0 times"),
        ([{"role": "user"}], "the text is None, not a text"),
        (b"\xff", "bytes that are no text"),
        (None, "the text is None, not a text"),
        ("a" * 1_000_001, "the text has 1,000,001 characters, at most 1,000,000 are read"),
    ],
)
def test_what_is_no_one_text_is_told(value, says):
    with pytest.raises(ValueError, match=says):
        row_sources.text(value, "text")


# --- Kinds of files.


def test_objects_one_a_line_and_in_an_array_are_told_apart_by_the_content(tmp_path):
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\r\n" for row in ROWS))
    (tmp_path / "array.jsonl").write_text("\ufeff" + json.dumps(ROWS, indent=2))
    (tmp_path / "one.json").write_text(json.dumps(ROWS[0], indent=2))
    (tmp_path / "records.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    texts = [read(tmp_path / name) for name in ("lines.json", "array.jsonl", "one.json", "records.json")]
    assert texts == [["one", "zwölf"], ["one", "zwölf"], ["one"], ["one", "zwölf"]]


@pytest.mark.parametrize(
    "text",
    [
        "id,text\n1,one\n2,two\n",
        "\ufeffid;text\r\n1;one\r\n\r\n2;two\r\n",
        "id | text\n1|one\n2|two",
        'text\n"one"\n"two"\n',
        'text,note\none,"a, ""b""\nc"\ntwo,\n',
    ],
)
def test_a_table_may_have_any_usual_delimiter_quotes_and_line_ends(tmp_path, text):
    (tmp_path / "rows.csv").write_bytes(text.encode())
    assert read(tmp_path / "rows.csv") == ["one", "two"]


def test_a_row_of_a_table_that_has_too_many_cells_is_told_with_its_line(tmp_path):
    (tmp_path / "rows.csv").write_text('id,text\n1,"on\ne"\n2,two, or three\n')
    with pytest.raises(ValueError, match=r"rows\.csv:4: 3 cells, and the header has 2 \(data\.skip_bad"):
        read(tmp_path / "rows.csv")
    assert read(tmp_path / "rows.csv", skip_bad=True) == ["on\ne"]


def test_utf_16_is_told_by_its_name(tmp_path):
    for name in ("rows.jsonl", "rows.csv"):
        (tmp_path / name).write_bytes("text\none\n".encode("utf-16"))
        with pytest.raises(ValueError, match=rf"{name}:1: UTF-16, not UTF-8"):
            read(tmp_path / name)


def test_compression_is_seen_from_the_content(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(gzip.compress(b'{"text": "one"}\n'))
    assert read(tmp_path / "rows.jsonl") == ["one"]


# --- Parquet.

NANOSECONDS = pyarrow.array([1, 2], pyarrow.timestamp("ns"))


def table(**columns):
    return pyarrow.table({name.replace("__", "."): values for name, values in columns.items()})


UNRELATED = {
    "nanoseconds": NANOSECONDS,
    "money": pyarrow.array([decimal.Decimal("1.5"), None], pyarrow.decimal128(9, 2)),
    "nested": pyarrow.array([{"at": 1}, {"at": 2}], pyarrow.struct([("at", pyarrow.timestamp("ns"))])),
    "map": pyarrow.array([[("a", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int8())),
    "uuid": pyarrow.array([b"0" * 16] * 2, pyarrow.uuid()) if hasattr(pyarrow, "uuid") else [1, 2],
    "null": pyarrow.nulls(2),
}


@pytest.mark.parametrize("name", UNRELATED)
def test_a_column_that_nobody_asks_for_is_not_read(tmp_path, name):
    path = written(tmp_path / "rows.parquet", table(**{name: UNRELATED[name]}, text=["one", "two"]))
    assert read(path) == ["one", "two"]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"Text": ["one", "two"]}, ""),
        ({"a": [{"b": "one"}, {"b": "two"}]}, "a.b"),
        ({"a__b": ["one", "two"], "a": [{"b": "x"}, {"b": "y"}]}, "a.b"),
        ({"a": [{"b": [{"c": "one"}]}, {"b": [{"c": "two"}]}]}, "a.b.c"),
        ({"a": [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]}, "a"),
        ({"a": [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]}, "a.content"),
        ({"a": [["one"], ["two"]]}, "a"),
        ({"a": pyarrow.array(["one", "two"]).dictionary_encode()}, "a"),
        ({"a": pyarrow.array(["one", "two"], pyarrow.large_string())}, "a"),
        ({"a": pyarrow.array([b"one", b"two"])}, "a"),
        ({"a": pyarrow.StructArray.from_arrays([pyarrow.array(["one", "two"]), NANOSECONDS], ["b", "at"])}, "a.b"),
    ],
)
def test_a_column_of_parquet_is_named_as_in_other_files(tmp_path, columns, named):
    assert read(written(tmp_path / "rows.parquet", table(**columns)), named) == ["one", "two"]


def test_rows_of_several_row_groups_come_in_their_order(tmp_path):
    texts = [f"{number} of many" for number in range(5000)]
    rows = table(text=texts, a=[{"b": [text]} for text in texts])
    for size in (7, 1000, 5000):
        pyarrow.parquet.write_table(
            rows, tmp_path / "rows.parquet", row_group_size=size, dictionary_pagesize_limit=4096
        )
        assert read(tmp_path / "rows.parquet") == read(tmp_path / "rows.parquet", "a.b") == texts


def test_a_missing_column_of_parquet_is_told_once_with_all_that_are_there(tmp_path, capsys):
    path = written(tmp_path / "rows.parquet", table(text=["one", "two"], a=[{"b": 1}, {"b": 2}], at=NANOSECONDS))
    with pytest.raises(ValueError, match=r"rows\.parquet: no column 'a.c' among text, a\.b, at: task\.text says"):
        read(path, "a.c", skip_bad=True)
    assert capsys.readouterr().err == ""


def test_a_value_that_python_cannot_hold_is_a_broken_row(tmp_path):
    path = written(tmp_path / "rows.parquet", table(text=NANOSECONDS))
    with pytest.raises(ValueError, match=r"rows\.parquet, row 1: .*data\.skip_bad"):
        read(path)


# --- Small files that hold very much.


def test_a_text_that_comes_again_and_again_is_not_read_beyond_the_size_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(row_sources, "MOST_READ", 1 << 20)
    once = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 100_000), ["a" * 10_000])  # 1 GB, written out
    path = written(tmp_path / "rows.parquet", table(text=once))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"row \d+: up to here the rows have more text than is read of a file of this"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_rows_may_be_many_and_short(tmp_path, monkeypatch):
    monkeypatch.setattr(row_sources, "MOST_READ", 1 << 10)
    (tmp_path / "rows.jsonl").write_text('{"text": "1 + 1"}\n' * 1000)
    assert len(read(tmp_path / "rows.jsonl")) == 1000


def test_a_text_that_comes_again_and_again_is_held_once(tmp_path):
    once = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000), ["a" * 100_000])
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(table(text=once), path, store_schema=False)  # as others than pyarrow write it
    usual = pyarrow.default_memory_pool()
    pool = pyarrow.proxy_memory_pool(usual)
    pyarrow.set_memory_pool(pool)
    try:
        assert len(read(path)) == 1000
        assert pool.max_memory() < 20 << 20
    finally:
        pyarrow.set_memory_pool(usual)


def test_a_row_group_is_weighed_before_it_is_read_in_the_columns_that_are_needed(tmp_path, monkeypatch):
    path = written(tmp_path / "rows.parquet", table(text=["a" * 200_000, "b" * 200_000], other=["c", "d"]))
    monkeypatch.setattr(row_files, "MOST_OF_A_GROUP", 100_000)
    assert read(path, "other") == ["c", "d"]
    with pytest.raises(ValueError, match=r"rows\.parquet: row group 0 has .* smaller row groups"):
        read(path)
    monkeypatch.setattr(row_files, "MOST_VALUES", 1)
    with pytest.raises(ValueError, match=r"rows\.parquet: row group 0 has 0 MB in 2 rows of these columns"):
        read(path, "other")


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.csv.gz"])
def test_what_is_compressed_is_inflated_up_to_a_bound(tmp_path, monkeypatch, name):
    monkeypatch.setattr(row_files, "MOST_AT_ONCE", 1 << 20)
    start = b'{"text": "one"}\n' if "jsonl" in name else b"[" if "json" in name else b"text\none\n"
    (tmp_path / name).write_bytes(gzip.compress(start + bytes(32 << 20), 1))
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"{name} (has a line of more than 1 MB|inflates to more than is read)"):
        read(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_very_many_lines_that_are_compressed_come_to_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MOST_INFLATED", 1 << 16)
    (tmp_path / "rows.jsonl").write_bytes(gzip.compress(b'{"text": "one"}\n' * 100_000))
    with pytest.raises(ValueError, match=r"rows\.jsonl inflates to more than is read of a file of its size"):
        read(tmp_path / "rows.jsonl")


# --- Names.


@pytest.mark.parametrize("name", ["rows.txt", "rows", "a/b/c/d", "/rows/", "a//b"])
def test_a_name_that_is_neither_file_nor_dataset_says_what_there_could_be(name):
    with pytest.raises(
        ValueError, match=r"neither a file that ends with \.jsonl, .* \.parquet nor a dataset owner/name"
    ):
        read(name)


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed")
def test_a_dataset_of_the_hub_without_its_package_says_what_to_install():
    with pytest.raises(ValueError, match=r"'owner/name:test' is on the Hugging Face hub.*pip install 'datasets>=4'"):
        read("owner/name:test")


def test_a_package_that_runs_scripts_of_datasets_is_not_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(__version__="3.6.0"))
    with pytest.raises(ValueError, match=r"datasets 3\.6\.0 would run a script .* pip install 'datasets>=4'"):
        read("owner/name:test")


def test_a_dataset_is_read_as_the_hub_gives_it(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    (tmp_path / "owner" / "name").mkdir(parents=True)  # what looks like a name of the hub may be a folder too
    written(tmp_path / "owner" / "name" / "test.jsonl")
    monkeypatch.chdir(tmp_path)
    assert read("owner/name:test") == ["one", "zwölf"]
    with pytest.raises(ValueError, match="'owner/name:train' can't be read from the Hugging Face hub"):
        read("owner/name:train")


def test_a_label_is_the_name_without_all_that_surrounds_it():
    assert list(row_sources.labels(["gs://b/aime24.jsonl", "x.csv.gz", "owner/name:test"]).values()) == [
        "aime24",
        "x",
        "name",
    ]


def test_two_labels_are_never_the_same():
    called = [
        "x/aime24/test.jsonl",
        "amc23/test.json",
        "test.parquet",
        "owner/name:test",
        "owner/name",
        "other/name:test",
    ]
    assert list(row_sources.labels(called).values()) == [
        "aime24/test",
        "amc23/test",
        "test.parquet",
        "owner/name:test",
        "name:train",
        "other/name:test",
    ]
    assert len(set(row_sources.labels(["/test.jsonl", "/a/test.jsonl", "a/test.jsonl", "a/test.json"]).values())) == 4
