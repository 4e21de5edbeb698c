"""The questions, out of files: those of the package hold, and a user's own are held to the same."""

import shutil

import pytest

from asyncthink_jax.config import ConfigError
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.prompts import organizer_instructions, worker_instructions
from asyncthink_jax.synthesis import plans, questions

POOL = Grammar(capacity=4, max_forks=6)
TASK = "Task: add {up}."


@pytest.fixture
def folder(tmp_path):
    """A copy of the package's prompts, for a user to change."""
    return shutil.copytree(questions.PACKAGED, tmp_path / "prompts")


def test_the_packages_prompts_tell_the_task_and_what_each_role_will_be_told():
    loaded = questions.load(questions.PACKAGED, TASK, POOL)
    assert TASK in loaded.fragments
    assert organizer_instructions(POOL, TASK) in loaded.traces and worker_instructions() in loaded.traces
    assert not any(name in loaded.fragments + loaded.traces for name in ("{task}", "{organizer}", "{worker}"))


@pytest.mark.parametrize(("capacity", "forks", "shown"), [(1, 0, 1), (2, 6, 2), (3, 6, 3), (4, 6, 4), (4, 2, 3)])
def test_the_examples_that_fit_the_pool_are_shown(capacity, forks, shown):
    assert len(questions.load(questions.PACKAGED, TASK, Grammar(capacity, forks)).examples) == shown


def test_a_question_is_instructions_then_examples_as_turns_then_the_problem():
    loaded = questions.load(questions.PACKAGED, TASK, POOL)
    first = loaded.ask_fragments("3 + 4 , 2 + 7")
    assert [message["role"] for message in first] == ["system", *["user", "assistant"] * 4, "user"]
    assert first[-1]["content"] == "[problem]\n3 + 4 , 2 + 7"
    plan = plans.from_text("fork 1 with fragment 2\nthink about fragment 1\njoin 1\nanswer")
    second = loaded.ask_traces("3 + 4 , 2 + 7", ["3 + 4", "2 + 7"], plan)
    assert second[0]["content"] == loaded.traces
    assert second[-1]["content"] == (
        "[problem]\n3 + 4 , 2 + 7\n\n[fragments]\n1. 3 + 4\n2. 2 + 7\n\n"
        "[sequence]\nfork 1 with fragment 2\nthink about fragment 1\njoin 1\nanswer"
    )
    assert second[2]["content"].startswith("[organizer]\n") and second[4]["content"].startswith("[worker 1]\n")


def test_a_folder_of_ones_own_takes_the_place_of_the_packages(folder):
    (folder / "fragments.md").write_text("Split {task} for {agents} agents, {like} this.")
    for path in sorted((folder / "examples").iterdir())[1:]:
        path.unlink()
    loaded = questions.load(folder, TASK, POOL)
    assert loaded.fragments == f"Split {TASK} for 4 agents, {{like}} this."
    assert len(loaded.examples) == 1


@pytest.mark.parametrize(
    ("file", "before", "after", "says"),
    [
        ("traces.md", None, None, "can't be read: No such file or directory"),
        ("traces.md", None, "", "is empty; it holds the instructions of a step"),
        ("examples/2_two_workers.txt", "[sequence]", "[order]", "no section [sequence]"),
        ("examples/2_two_workers.txt", "join 2\nthink", "think", "forks and joins are not those of [sequence]"),
        ("examples/2_two_workers.txt", "join 2", "joins 2", "'joins 2' is no action; one is like"),
        ("examples/2_two_workers.txt", "with fragment 3", "with fragment 4", "a fragment that is not there"),
        ("examples/2_two_workers.txt", "</RETURN>", "", "no_return: worker 1 has no <RETURN>"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(folder, file, before, after, says):
    path = folder / file
    text = path.read_text()
    if after is None:
        path.unlink()
    else:
        path.write_text(text.replace(before, after) if before else after)
    with pytest.raises(ConfigError) as error:
        questions.load(folder, TASK, POOL)
    assert str(path) in str(error.value) and says in str(error.value) and "\n" not in str(error.value)


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_part_of_a_prompt(folder):
    plain = questions.load(folder, TASK, POOL)
    for path in (folder / "traces.md", *(folder / "examples").iterdir()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert questions.load(folder, TASK, POOL) == plain


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nowhere is no folder"):
        questions.load(tmp_path / "nowhere", TASK, POOL)
