"""Math: rows in the formats of the known files, splits that share nothing, scores and votes."""

import json
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest

from asyncthink_jax.tasks import math_grader
from asyncthink_jax.tasks.math import Math, Problem

# Problems of our own, in the formats of the files that one meets.
AIME = [
    {
        "id": 60,
        "problem": "Find the number of integers $n$ with $1\\le n\\le 146$ that are even.",
        "solution": "Every second one is: $\\framebox{073}$.",
        "answer": "073",
        "url": "https://example.org/wiki/index.php/Problem_1",
        "question": "Find the number of integers $n$ with $1\\le n\\le 146$ that are even.",
    }
]
AMC = [
    {
        "id": 0,
        "problem": "What is $3^3$?",
        "answer": 27.0,
        "url": "https://example.org/wiki/index.php/Problem_2",
        "question": "What is $3^3$?",
    }
]
DEEPSCALER = [
    {"problem": f"What is $\\frac{{{n}}}{{7}}$ of a week, in days?", "answer": f"{n}", "solution": f"${n}$"}
    for n in range(1, 11)
]


def written(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row).replace("/", "\\/") + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    return {
        "train": written(tmp_path / "deepscaler.json", DEEPSCALER),
        "test": (written(tmp_path / "aime24.jsonl", AIME), written(tmp_path / "amc23.jsonl", AMC)),
        "validation_problems": 3,
    }


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"problem": "Sum?", "answer": ["5"]}, {}),
        ({"question": ["Sum?"], "final_answer": ["5"], "is_multiple": False}, {}),
        ({"problem": "Sum?", "answer": 5.0}, {}),
        ({"problem": "Sum?", "answer": '["5"]'}, {}),
        ({"prompt": [{"role": "user", "content": "Sum?"}], "reward_model": {"ground_truth": "5", "style": "rule"}}, {}),
        ({"x": {"q": "Sum?", "a": "5", "more": {"b": "6"}}}, {"question": "x.q", "answer": "x.a"}),
        ({"x.q": "Sum?", "x": {"a": [{"b": 5}]}}, {"question": "x.q", "answer": "x.a.b"}),
    ],
)
def test_question_and_answer_are_found_in_lists_chats_and_nested_columns(tmp_path, ending, row, columns):
    path = written(tmp_path / f"rows.{ending}", [row])
    assert Math(train=path, test=(path,), **columns)._read(path, False) == [Problem("Sum?", "5", "rows")]


@pytest.mark.parametrize("printed", [r"['\\frac{1}{2}']", r'["\\frac{1}{2}"]', r'[ "\frac{1}{2}" ]'])
def test_a_list_that_was_printed_is_its_one_text(tmp_path, printed):
    path = written(tmp_path / "rows.jsonl", [{"problem": "Half?", "answer": printed}])
    assert Math(train=path, test=(path,))._read(path, False)[0].answer == r"\frac{1}{2}"


def test_large_floats_are_the_numbers_that_stand_there(tmp_path):
    rows = [{"problem": f"{n}?", "answer": value} for n, value in enumerate([6.02e23, 1e22, -0.0, 2.5])]
    path = written(tmp_path / "rows.jsonl", rows)
    found = [problem.answer for problem in Math(train=path, test=(path,))._read(path, False)]
    assert found == ["602" + 21 * "0", "1" + 22 * "0", "0", "2.5"]


def test_floats_with_few_bits_are_the_numbers_that_were_meant(tmp_path):
    path = str(tmp_path / "rows.parquet")
    column = pyarrow.array([0.1, 1e-7, None], pyarrow.float32())
    pyarrow.parquet.write_table(pyarrow.table({"problem": ["a", "b", "c"], "answer": column}), path)
    assert [problem.answer for problem in Math(train=path, test=(path,))._read(path, True)] == ["0.1", "1e-07"]


def test_a_decimal_is_a_number(tmp_path):
    path = written(
        tmp_path / "rows.parquet", [{"problem": "Sum?", "answer": Decimal(text)} for text in ("5.00", "2.5")]
    )
    assert [problem.answer for problem in Math(train=path, test=(path,))._read(path, False)] == ["5", "2.50"]


def test_files_of_other_formats_load_as_they_are(files):
    splits = Math(**files).splits()
    assert {(problem.source, problem.answer) for problem in splits["test"]} == {("aime24", "073"), ("amc23", "27")}
    assert {problem.query for problem in splits["test"]} == {AIME[0]["problem"], AMC[0]["problem"]}
    assert len(splits["train"]) == 7 and len(splits["validation"]) == 3


def test_parquet_holds_the_same_problems(files, tmp_path):
    parquet = files | {"train": written(tmp_path / "deepscaler.parquet", DEEPSCALER)}
    assert Math(**parquet).splits() == Math(**files).splits()


def test_a_split_depends_on_its_seed_alone(files):
    assert Math(**files).records() == Math(**files).records()
    assert Math(**files, split_seed=1).records()["validation"] != Math(**files).records()["validation"]


def test_no_training_question_is_one_of_validation_or_test(files, tmp_path, capsys):
    shouted = [row | {"problem": f"  {row['problem'].upper()} "} for row in (*AIME, *AMC, DEEPSCALER[0])]
    train = written(tmp_path / "more.jsonl", [*DEEPSCALER, *shouted, {"problem": "x" * 2001, "answer": "1"}])
    splits = Math(**files | {"train": train}).splits()
    assert len(splits["train"]) == 7 and len(splits["validation"]) == 3
    assert "4 of 14 training problems left out" in capsys.readouterr().err
    validation = written(tmp_path / "validation.jsonl", DEEPSCALER[:4])
    splits = Math(**files | {"validation": validation, "validation_problems": 4}).splits()
    assert {problem.question for problem in splits["validation"]} == {row["problem"] for row in DEEPSCALER[:4]}
    assert len(splits["train"]) == 6


def test_sizes_of_splits_are_checked(files):
    assert len(Math(**files, test_problems=1).splits()["test"]) == 1
    with pytest.raises(ValueError, match=r"task\.test_problems is 3, but there are 2"):
        Math(**files, test_problems=3).records()
    with pytest.raises(ValueError, match=r"task\.validation_problems is 11, but there are 10"):
        Math(**files | {"validation_problems": 11}).records()
    with pytest.raises(ValueError, match="no training problem is left"):
        Math(**files | {"validation_problems": 10}).records()


def test_other_columns_can_be_named(files, tmp_path):
    test = written(tmp_path / "mine.jsonl", [{"q": "1 + 1?", "problem": "no", "a": 2}])
    train = written(tmp_path / "train.jsonl", [{"q": f"{n} + 1?", "a": n + 1} for n in range(5)])
    task = Math(train=train, test=(test,), question="q", answer="a", validation_problems=1)
    assert [(p.question, p.answer) for p in task.splits()["test"]] == [("1 + 1?", "2")]
    with pytest.raises(ValueError, match=r"mine\.jsonl:1: no column 'qq' among q, problem, a: task\.question says"):
        Math(train=train, test=(test,), question="qq").records()


@pytest.mark.parametrize(
    "answer", [None, "", "  ", "$$", float("nan"), True, ["1", "2"], "['1', '2']", [], {"a": 1}, "9" * 2000]
)
def test_a_row_without_a_usable_answer_is_broken(files, tmp_path, answer):
    test = written(tmp_path / "broken.jsonl", [*AMC, AMC[0] | {"answer": answer}])
    with pytest.raises(ValueError, match=r"broken\.jsonl:2: the answer"):
        Math(**files | {"test": (test,)}).records()
    assert len(Math(**files | {"test": (test,)}).records(skip_bad=True)["test"]) == 1


def test_without_math_verify_a_run_ends_before_it_reads(files, monkeypatch):
    monkeypatch.setattr(math_grader, "is_installed", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'asyncthink_jax\[math\]'"):
        Math(**files).records()


def test_what_changes_the_problems_are_its_files(files):
    assert list(Math(**files).files) == [files["train"], *files["test"]]
    assert list(Math(train="owner/name", test=("owner/name:test",)).files) == []


def test_a_score_counts_one_part():
    problem, task = Problem("?", "073", "aime24"), Math()
    assert task.score(problem, r"\boxed{73}") == {"accuracy": 1.0, "correct": 1, "answered": 1, "wrong": 0}
    assert task.score(problem, "74") == {"accuracy": 0.0, "correct": 0, "answered": 1, "wrong": 1}
    assert task.score(problem, "7" * 1_000_000) == {"accuracy": 0.0, "correct": 0, "answered": 1, "wrong": 1}
    assert task.score(problem, None) == {"accuracy": 0.0, "correct": 0, "answered": 0, "wrong": 0}


def test_traces_vote():
    assert Math().merge(["74", None, "073", r"\boxed{73}"]) == "073"
    assert Math().merge([None, None]) is None


def test_a_problem_survives_its_file():
    problem = Problem("What is $3^3$?", "27", "amc23")
    assert Math().from_json(json.loads(json.dumps(problem.to_json()))) == problem


@pytest.mark.parametrize("stored", [r"\dfrac12", r"$\frac{1}{2}$", "½"])
def test_an_answer_that_was_stored_as_it_is_in_its_file_is_read_as_well(stored):
    assert Math().score(Problem("?", stored, "s"), "0.5")["accuracy"] == 1.0
