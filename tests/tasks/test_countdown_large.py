"""Countdown of the paper's size: problems have what they promise, searches find all there is and stay short."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest

from asyncthink_jax.data import pipeline
from asyncthink_jax.data.byte_tokenizer import ByteTokenizer
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.tasks import LargeCountdown, expressions
from asyncthink_jax.tasks.countdown_large import count_solutions, needs
from asyncthink_jax.tasks.countdown_search import Problem, listing, pairs, worker_text

TASK = LargeCountdown(train_problems=150, validation_problems=20, test_problems=60)


@pytest.fixture(scope="module")
def splits():
    return TASK.splits()


@pytest.fixture(scope="module")
def problems(splits):
    return [problem for part in splits.values() for problem in part]


def everything(values, target, max_value, found):
    """All expressions of some of the numbers that reach the target by whole positive values, by trying all."""
    for at, other in permutations(range(len(values)), 2):
        (left, left_tree), (right, right_tree) = values[at], values[other]
        rest = [one for place, one in enumerate(values) if place not in (at, other)]
        for operator in "+-*/":
            if (operator in "+*" and at > other) or (operator == "/" and left % right):
                continue
            value = int(expressions.value((operator, left, right)))
            if 0 < value <= max_value:
                tree = (operator, left_tree, right_tree)
                if value == target:
                    found.add(expressions.canonical(tree))
                everything([*rest, (value, tree)], target, max_value, found)
    return found


def test_the_searches_find_every_solution_but_some_that_multiply_and_divide_in_a_row(splits):
    missed = total = 0
    for problem in splits["test"][:12] + splits["train_few"][:12]:
        every = everything([(n, n) for n in problem.numbers], problem.target, TASK.max_value, set())
        found = set(TASK.solutions(problem))
        assert found <= every
        for solution in every - found:
            assert "/" in solution and solution.count("/") + solution.count("*") > 1, (problem, solution)
        missed, total = missed + len(every - found), total + len(every)
    assert missed < 0.05 * total


def test_no_two_searches_report_the_same_solution(problems):
    for problem in problems:
        reported = [hit for pair in pairs(problem) for hit in TASK.search(problem, pair)[1]]
        assert len(reported) == len(set(reported)), problem


@pytest.mark.parametrize("n", [2, 3, 4])
def test_counting_agrees_with_searching(n):
    rng, seen = np.random.default_rng(0), set()
    for _ in range(150 if n == 4 else 30):
        numbers = tuple(sorted(int(x) for x in rng.choice(np.arange(1, 30), n, replace=False)))
        target = int(rng.integers(10, 101))
        if target in numbers:
            continue
        found = TASK.solutions(Problem(numbers, target))
        assert count_solutions(numbers, TASK.max_value)[target] == len(found)
        seen |= {len(expressions.leaves(expressions.parse(solution))) for solution in found}
    assert seen == set(range(2, n + 1))


def test_every_hit_is_a_solution_by_the_scorer(problems):
    for problem in problems:
        found = TASK.solutions(problem)
        assert TASK.score(problem, listing(found))["correct"] == len(found)


def test_a_search_writes_what_its_module_says():
    problem = Problem((6, 9, 27, 57), 19)
    text, hits = TASK.search(problem, (6, 9))
    assert text.startswith(" for 27 46 8 513 for 57 76 38 3 + 15 with 27 42 12 405 with 57 ")
    assert " with 27 + 57 = 84 with 57 - 27 = 30 450 2 - 3 with 27 " in text
    assert " with 57 60 54 171 19 ! 57 / ( 9 - 6 ) " in text
    assert hits == ("57 / ( 9 - 6 )",)
    text, hits = TASK.search(problem, (9, 27))  # 18, and that with 6 is what 57 needs
    assert " with 6 108 3 ! 6 * 57 / ( 27 - 9 ) with 57 " in text
    assert hits == ("6 * 57 / ( 27 - 9 )", "57 / ( 6 - 27 / 9 )", "9 * 57 / 27")


def test_what_a_number_needs_makes_the_target_with_it():
    for number in range(1, 100):
        for target in (10, 24, 97):
            for value, ways in needs(number, target, 999).items():
                for operator, number_first in ways:
                    assert expressions.value(
                        (operator, number, value) if number_first else (operator, value, number)
                    ) == (target)


def test_worker_traces_are_short_and_have_one_word_for_each_space(problems, splits):
    lengths = []
    for problem in problems:
        for pair in pairs(problem):
            text = worker_text(TASK.search(problem, pair)).replace("<", " <")
            assert text.split(" ")[1:] == text.split()
            lengths.append(len(text.split()))
    assert max(lengths) < 400 and 30 < np.median(lengths) < 70


def test_problems_have_what_they_promise(splits):
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 150,
        "train_few": 15,
        "validation": 20,
        "test": 60,
    }
    for name, part in splits.items():
        for problem in part:
            assert len(set(problem.numbers)) == 4 and list(problem.numbers) == sorted(problem.numbers)
            assert problem.numbers[0] >= 1 and problem.numbers[-1] <= 99
            assert 10 <= problem.target <= 100 and problem.target not in problem.numbers
            assert (len(TASK.solutions(problem)) >= 4) != (name == "train_few")


def test_no_two_problems_share_their_numbers(problems):
    assert len({problem.numbers for problem in problems}) == len(problems)


def test_the_test_split_depends_on_its_seed_alone(splits):
    other = dataclasses.replace(TASK, train_problems=10, validation_problems=5).splits()
    assert other["test"] == splits["test"]
    assert dataclasses.replace(TASK, split_seed=1).splits()["test"] != splits["test"]


def test_more_problems_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"^test split: 60 problems asked, \d+ found: ask for fewer$"):
        dataclasses.replace(TASK, max_number=7).splits()


@pytest.mark.parametrize(("kind", "agents"), [("random", 2), ("random", 4), ("oracle", 2), ("sequential", 1)])
def test_demonstrations_are_well_formed_and_right(splits, kind, agents):
    rng, tokenizer = np.random.default_rng(1), ByteTokenizer()
    for _ in range(8):
        script = TASK.script(splits, kind, agents, rng)
        episode = pipeline.played(script, tokenizer, Grammar(agents, 6))
        score = TASK.score(script.problem, episode.answer)
        assert episode.format_error is None and score["wrong"] == 0
        if kind == "oracle":
            assert score["correct"] == min(4, len(TASK.solutions(script.problem)))


def test_a_target_out_of_order_is_told_in_one_line():
    told = [line for holds, line in LargeCountdown(min_target=101).check() if not holds]
    assert told == ["task: min_target (101), max_target (100) and max_value (999) must be in this order"]


def test_every_word_has_its_place_in_the_texts_for_a_tokenizer(problems):
    known = {word for text in TASK.tokenizer_texts() for word in text.split()}
    for problem in problems[:50]:
        for pair in pairs(problem):
            assert set(TASK.search(problem, pair)[0].split()) <= known
