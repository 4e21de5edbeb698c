"""Multiple choice: which letter an answer names, and which questions are asked."""

import json

import pytest

from asyncthink_jax.tasks.mmlu_pro import MMLUPro, Problem, letter

OPTIONS = ("a tree", "a cycle", "a path of length 3", "none of these")
ROWS = [  # in the format of the dataset, not of it
    {
        "question_id": n,
        "question": f"A connected graph has {n} vertices and {n - 1} edges. What is it?",
        "options": list(OPTIONS),
        "answer": "A",
        "answer_index": 0,
        "cot_content": "",
        "category": category,
        "src": src,
    }
    for n, (category, src) in enumerate(
        [("math", "theoremQA-Math"), ("math", "ori_mmlu-college_mathematics"), ("biology", "stemez-Genetics")], start=5
    )
]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return MMLUPro(validation=str(path), test=str(path))


def test_the_query_has_the_question_and_a_letter_before_each_option(task):
    problem = task.splits()["test"][0]
    assert problem.query.splitlines()[1:] == ["A. a tree", "B. a cycle", "C. a path of length 3", "D. none of these"]
    assert task.from_json(json.loads(json.dumps(problem.to_json()))) == problem


@pytest.mark.parametrize(
    "answer, named",
    [
        ("C", "C"),
        (" c \n", "C"),
        ("(C)", "C"),
        ("C.", "C"),
        ("**C**", "C"),
        (r"$\boxed{C}$", "C"),
        (r"\boxed{\text{C}}", "C"),
        ("C. a path of length 3", "C"),
        ("(C) a path", "C"),
        ("The answer is C.", "C"),
        ("The answer is (C), a path of length 3", "C"),
        ("Answer: C", "C"),
        ("option C", "C"),
        ("a path of length 3", "C"),
        ("A Path of  length 3.", "C"),
        ("a tree", "A"),
        ("C!", "C"),
        ("It's C.", "C"),
        ("C is correct", "C"),
        ("A is wrong. C is the right answer.", "C"),
        ("(C) is the answer", "C"),
        ("C is correct only for trees", None),
        ("I doubt that C is correct", None),
        ("A is correct. B is correct.", None),
        ("Answer: I think so", None),
        ("A or C", None),
        ("A, C", None),
        ("the answer is A or the answer is C", None),
        ("The answer is A or B.", None),
        ("The answers are (A) and (B).", None),
        ("Answer: C, D", None),
        ("A. or B.", None),
        ("A) and B)", None),
        ("(A) a tree or (B) a cycle", None),
        ("A. a tree\nB. a cycle", None),
        ("Options A, B and C are right", None),
        ("The answer is C, I think.", "C"),
        ("The answer is C, I'm confident.", "C"),
        ("The answer is C and I'll say why.", "C"),
        ("The answer is C, A tree has no cycles", "C"),
        ("The answer is C and A is wrong", "C"),
        ("The answer is B or A because both fit", None),
        ("B. Vitamin C. It is found in fruit", "B"),
        ("(D) hepatitis B. The virus", "D"),
        ("C) Because A. Smith said so", "C"),
        ("The answer is C and not a tree.", "C"),
        ("C. a path of length 3.", "C"),
        ("the answer is a tree that has edges", None),
        ("A tree, I think", None),
        ("The answer is: C", "C"),
        ("The answer is: (C)", "C"),
        ("The correct answer is: **C**", "C"),
        ("The answer is:\nC", "C"),
        ("the answer is (c)", "C"),
        ("Answer: c", "C"),
        ("the answer is a", "A"),
        ("The answer should be (C)", "C"),
        ("ANSWER IS D. A is incorrect.", "D"),
        ("Therefore, the correct option is (C).", "C"),
        ("I choose C", "C"),
        ("C,", "C"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER C}", "C"),
        ("```\nC\n```", "C"),
        ("`(C)`", "C"),
        ("[C]", "C"),
        (r"\(\textbf{(C)}\)", "C"),
        ("C - a path of length 3", "C"),
        ("C\nIt has two ends.", "C"),
        ("Option C: a path of length 3", "C"),
        ("The answer is: a path of length 3", "C"),
        ("The answer is: A. a tree", "A"),
        ("C because it has two ends", "C"),
        ("C (a path of length 3)", "C"),
        ("Ans: C", "C"),
        ("The answer is option C", "C"),
        ('"C"', "C"),
        ("C (D)", None),
        ("C\nD", None),
        ("A - B", None),
        ("A a tree", "A"),
        ("The answer is: C a path of length 3.", "C"),
        ("A a cycle", None),
        ("The answer is not A", None),
        ("The answer isn't A", None),
        ("Option A is wrong, choose C", None),
        ("the answer is (c) or (d)", None),
        ("I think so", None),
        ("Therefore, C.", "C"),
        ("Hence C is correct.", "C"),
        ("Thus D is wrong", None),
        ("Only C is correct", "C"),
        ("- C", "C"),
        ("c) a path of length 3", "C"),
        ("(c) a path of length 3", "C"),
        ("c) a tree", None),
        ("C = a path of length 3", "C"),
        ("C, because it has two ends", "C"),
        ("C, because D has none, A, B", "C"),
        ("A, B, because both fit", None),
        ("K", None),
        ("", None),
        ("nothing", None),
    ],
)
def test_an_answer_names_one_letter_or_none(answer, named):
    assert letter(answer, OPTIONS) == named


def test_a_hostile_answer_names_no_letter():
    for answer in (
        "(" * 2000,
        "answer is " * 200,
        r"\boxed{" * 280,
        " " * 1999 + "x",
        "A" * 1_000_000,
        "A" + " " * 2000,
        "\x00🤯" * 900,
    ):
        assert letter(answer, OPTIONS) is None


def test_a_score_counts_one_part():
    problem = Problem("?", OPTIONS, "C", "math", "")
    task = MMLUPro()
    assert task.score(problem, "(C)") == {"accuracy": 1.0, "correct": 1, "answered": 1, "wrong": 0}
    assert task.score(problem, "B") == {"accuracy": 0.0, "correct": 0, "answered": 1, "wrong": 1}
    assert task.score(problem, None) == {"accuracy": 0.0, "correct": 0, "answered": 0, "wrong": 0}


def test_traces_vote_by_letter_and_the_first_of_equal_ones_wins():
    task = MMLUPro()
    assert task.merge(["A", "(B)", None, "the answer is B"]) == "(B)"
    assert task.merge(["A", "B"]) == "A"
    assert task.merge(["a tree", "A tree.", "B"]) == "a tree"
    assert task.merge([None, ""]) is None


def test_questions_of_some_categories_or_sources_only(tmp_path, task):
    def sources_of(**fields):
        chosen = MMLUPro(validation=task.test, test=task.test, **fields).splits()["test"]
        return sorted(problem.source for problem in chosen)

    assert sources_of(categories=("math",)) == ["ori_mmlu-college_mathematics", "theoremQA-Math"]
    assert sources_of(src=("stemez", "theoremQA-")) == ["stemez-Genetics", "theoremQA-Math"]
    assert sources_of(categories=("math",), src=("theoremQA-Math",)) == ["theoremQA-Math"]
    with pytest.raises(ValueError, match=r"no category 'graph theory' \(task.categories\); it has biology, math"):
        sources_of(categories=("graph theory",))
    with pytest.raises(ValueError, match="no src that begins with 'genetics'"):
        sources_of(src=("genetics",))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"options": "a, b"}, "the options are not a list of texts"),
        ({"options": ["a"]}, "1 options, must be 2 to 10"),
        ({"options": [str(n) for n in range(11)]}, "11 options, must be 2 to 10"),
        ({"answer": "E"}, "the answer is 'E', must be a letter from A to D"),
        ({"answer": "AB"}, "the answer is 'AB'"),
        ({"answer_index": 1}, "the answer is 'A', but answer_index is 1"),
        ({"question": None}, "the question is None, not a text"),
    ],
)
def test_a_row_that_contradicts_itself_is_broken(tmp_path, change, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1] | change) + "\n")
    task = MMLUPro(validation=str(path), test=str(path))
    with pytest.raises(ValueError, match=rf"questions\.jsonl:2: {message}"):
        task.records()
    assert len(task.records(skip_bad=True)["test"]) == 1


def test_options_that_only_fill_up_are_none(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(ROWS[0] | {"options": [*OPTIONS, "N/A", "N/A"]}) + "\n")
    assert MMLUPro(validation=str(path), test=str(path)).splits()["test"][0].options == OPTIONS


def test_sizes_of_splits(task):
    small = MMLUPro(validation=task.test, test=task.test, test_problems=2)
    assert {name: len(problems) for name, problems in small.splits().items()} == {
        "train": 0,
        "validation": 3,
        "test": 2,
    }
    with pytest.raises(ValueError, match=r"task\.test_problems is 9, but there are 3 problems"):
        MMLUPro(validation=task.test, test=task.test, test_problems=9).records()
