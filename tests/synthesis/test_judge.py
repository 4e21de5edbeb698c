"""What becomes a demonstration: what was asked for, can be read by the run, fits its budgets, and is right."""

import dataclasses

import pytest
from fake_llm import SumsWriter
from sums import CONFIG, Problem, Sums

from asyncthink_jax.config import ConfigError
from asyncthink_jax.protocol.grammar import FormatError, Grammar
from asyncthink_jax.synthesis import plans
from asyncthink_jax.synthesis.judge import REASONS, reader
from asyncthink_jax.synthesis.reading import Dropped

PROBLEM = Problem("3 + 4 , 2 + 7 , 5 + 5")
PLAN = plans.from_text(
    "think\nfork 1 with fragment 2\nthink about fragment 1\nfork 2 with fragment 3\njoin 2\njoin 1\nanswer"
)
TEXT = SumsWriter().traces(PROBLEM.query, PLAN)


def reason(judge, text, plan=PLAN):
    with pytest.raises(Dropped) as dropped:
        judge.script(PROBLEM, plan, text)
    assert dropped.value.reason in REASONS
    return dropped.value.reason, dropped.value.detail


def test_what_is_well_formed_and_right_is_a_demonstration(judge):
    script = judge.script(PROBLEM, PLAN, TEXT)
    assert "".join(script.organizer) == (
        " I think<FORK-1> 2 + 7</FORK-1> 3 + 4 = 7<FORK-2> 5 + 5</FORK-2><JOIN-2><JOIN-1><ANSWER> 7 , 9 , 10</ANSWER>"
    )
    assert [script.organizer[place] for place in sorted(script.work)] == [" I think", " 3 + 4 = 7", " 7 , 9 , 10"]
    assert script.workers == {1: " 2 + 7 = 9<RETURN> 9</RETURN>", 2: " 5 + 5 = 10<RETURN> 10</RETURN>"}
    assert script.returns == {1: " 9", 2: " 10"} and script.problem == PROBLEM


def test_another_sequence_than_the_one_asked_for_is_dropped_unless_it_is_kept(judge):
    other = plans.from_text("fork 1 with fragment 2\nthink about fragment 1\njoin 1\nthink about fragment 3\nanswer")
    assert reason(judge, TEXT, other) == (
        "other_sequence",
        "asked for fork 1, join 1; it has fork 1, fork 2, join 2, join 1",
    )
    assert dataclasses.replace(judge, keep_unplanned=True).script(PROBLEM, other, TEXT)


def test_a_wrong_answer_is_dropped_unless_it_is_kept(judge):
    wrong = TEXT.replace("7 , 9 , 10</ANSWER>", "7 , 9 , 11</ANSWER>")
    assert reason(judge, wrong)[0] == "wrong_answer"
    assert dataclasses.replace(judge, keep_wrong=True).script(PROBLEM, PLAN, wrong)


def test_an_answer_with_something_wrong_beside_what_is_right_is_dropped(judge):
    class Lenient(Sums):
        def score(self, problem, answer):
            return {"accuracy": 1.0, "correct": 3, "answered": 4, "wrong": 1}

    assert reason(dataclasses.replace(judge, task=Lenient()), TEXT)[0] == "wrong_answer"


def test_words_that_the_runs_tokenizer_has_not_are_dropped(judge):
    assert reason(judge, TEXT.replace(" I think", " I ponder")) == ("unknown_words", "at 'ponder'")


@pytest.mark.parametrize(
    ("section", "field", "enough", "detail"),
    [
        ("rollout", "organizer_budget", 26, "the organizer has 26 tokens, rollout.organizer_budget is 25"),
        ("rollout", "worker_budget", 8, "worker 1 has 8 tokens, rollout.worker_budget is 7"),
        ("rollout", "worker_context", 15, "worker 1 has 15 tokens, rollout.worker_context is 14"),
        ("rollout", "context", 44, "the organizer has 44 tokens, rollout.context is 43"),
        ("sft", "row_length", 44, "the organizer has 44 tokens, sft.row_length is 43"),
    ],
)
def test_what_is_longer_than_the_config_allows_is_dropped(judge, section, field, enough, detail):
    def limited(value):
        part = dataclasses.replace(getattr(CONFIG, section), **{field: value})
        return dataclasses.replace(judge, config=dataclasses.replace(CONFIG, **{section: part}))

    assert limited(enough).script(PROBLEM, PLAN, TEXT)
    assert reason(limited(enough - 1), TEXT) == ("budget", detail)


def test_every_format_error_has_a_line_in_the_table():
    assert {error.name.lower() for error in FormatError if error} <= REASONS.keys()


# --- The tokenizer of the run that will train.


def test_a_run_from_scratch_is_read_by_a_tokenizer_of_the_tasks_words(read_by):
    tokenizer, prompts = read_by
    assert len(tokenizer.encode("<FORK-1> 12 + 3</FORK-1>")) == 5
    assert prompts.for_organizer("3 + 4") == "solve 3 + 4 :"


def test_a_tokenizer_can_be_named(tmp_path, read_by):
    read_by[0].save(tmp_path)
    tokenizer, prompts = reader(CONFIG, Grammar(3, 4), str(tmp_path))
    assert tokenizer.encode(TEXT) == read_by[0].encode(TEXT)
    assert Sums().instructions in prompts.for_organizer("3 + 4")  # as a released model is told


@pytest.mark.parametrize(
    ("source", "says"),
    [("gs://bucket/model", "by --tokenizer"), ("nowhere", "nowhere does not exist.* by --tokenizer")],
)
def test_a_tokenizer_that_is_not_there_is_refused(source, says):
    with pytest.raises(ConfigError, match=says):
        reader(dataclasses.replace(CONFIG, pretrained=source), Grammar(3, 4), None)
