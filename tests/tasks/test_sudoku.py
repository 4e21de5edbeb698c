"""Sudoku: puzzles have one solution, the splits are apart, the scorer goes by the rules."""

import functools
import itertools
import random
import time
from collections import Counter

import numpy as np
import pytest
from puzzles import NINE, SMALL, TASK, TINY

from asyncthink_jax.tasks import sudoku_grids, sudoku_scripts
from asyncthink_jax.tasks.sudoku import MAX_ANSWER_CHARACTERS, Problem, Sudoku, parse

LARGE = Problem("53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79")
LARGE_SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


@pytest.fixture(scope="module")
def splits():
    return TASK.splits()


@pytest.fixture(scope="module")
def nine():
    return NINE.splits()


@functools.cache
def peers(size, place):
    """The places that share a row, a column or a box with one, by arithmetic."""
    side, (row, column) = int(size**0.5), divmod(place, size)

    def see_each_other(r, c):
        return r == row or c == column or (r // side == row // side and c // side == column // side)

    return [r * size + c for r in range(size) for c in range(size) if see_each_other(r, c) and r * size + c != place]


def brute_force(cells, limit):
    """How many completions there are, up to `limit`: cell by cell in reading order, whatever would be cheaper."""
    size, cells, count = int(len(cells) ** 0.5), list(cells), 0
    empty = [place for place, digit in enumerate(cells) if not digit]
    for place, digit in enumerate(cells):
        if digit and any(cells[peer] == digit for peer in peers(size, place)):
            return 0

    def fill(n):
        nonlocal count
        if n == len(empty):
            count += 1
            return
        taken = {cells[peer] for peer in peers(size, empty[n])}
        for digit in range(1, size + 1):
            if digit not in taken and count < limit:
                cells[empty[n]] = digit
                fill(n + 1)
        cells[empty[n]] = 0

    fill(0)
    return count


def solution_of(problem):
    (solution,) = sudoku_grids.solutions(problem.cells, 2)
    return solution


# Grids.


def test_there_are_288_full_grids_of_4x4_in_five_classes():
    every = sudoku_grids.solutions((0,) * 16, 1000)
    assert len(set(every)) == len(every) == 288
    assert sorted(Counter(map(sudoku_grids.symmetry_class, every)).values()) == [24, 24, 48, 96, 96]


def test_the_solver_counts_what_brute_force_counts():
    rng = np.random.default_rng(0)
    every = sudoku_grids.solutions((0,) * 16, 1000)
    counts = Counter()
    for _ in range(300):
        cells = list(every[rng.integers(288)])
        for place in rng.permutation(16)[: rng.integers(6, 13)]:
            cells[place] = 0
        if rng.random() < 0.3:  # a clue that is wrong, or breaks the rules
            cells[rng.integers(16)] = int(rng.integers(1, 5))
        found = sudoku_grids.solutions(tuple(cells), 3)
        assert len(found) == len(set(found)) == brute_force(tuple(cells), 3)
        assert all(sudoku_grids.keeps_rules(grid) for grid in found)
        counts[len(found)] += 1
    assert min(counts[n] for n in range(4)) > 10


def test_a_known_9x9_is_solved():
    assert "".join(map(str, solution_of(LARGE))) == LARGE_SOLUTION


def test_a_symmetry_class_holds_whatever_is_renamed_rotated_and_reflected():
    rng = np.random.default_rng(1)
    for size in (4, 9):
        solution = sudoku_grids.random_solution(size, rng)
        for _ in range(20):
            names = [0, *rng.permutation(size) + 1]
            square = np.array([names[cell] for cell in solution]).reshape(size, size)
            square = np.rot90(square.T if rng.random() < 0.5 else square, rng.integers(4))
            image = tuple(int(cell) for cell in square.ravel())
            assert sudoku_grids.symmetry_class(image) == sudoku_grids.symmetry_class(solution)
    assert sudoku_grids.symmetry_class(solution) != sudoku_grids.symmetry_class(
        sudoku_grids.random_solution(9, np.random.default_rng(2))
    )


# Problems.


@pytest.mark.parametrize("name", ["splits", "nine"])
def test_every_puzzle_has_one_solution_by_brute_force(name, request):
    task, found = {"splits": TASK, "nine": NINE}[name], request.getfixturevalue(name)
    for problem in itertools.chain(*(problems[:20] for problems in found.values())):
        assert brute_force(problem.cells, 2) == 1
        assert task.min_clues <= sum(map(bool, problem.cells)) <= task.max_clues


def test_splits_have_the_sizes_asked_for_and_no_puzzle_twice(splits):
    assert {name: len(problems) for name, problems in splits.items()} == {"train": 300, "validation": 60, "test": 60}
    assert len({problem.puzzle for problems in splits.values() for problem in problems}) == 420


@pytest.mark.parametrize("name", ["splits", "nine"])
def test_no_two_splits_share_a_solution_in_any_guise(name, request):
    found = request.getfixturevalue(name)
    classes = {
        split: {sudoku_grids.symmetry_class(solution_of(problem)) for problem in problems}
        for split, problems in found.items()
    }
    for one, other in itertools.combinations(classes.values(), 2):
        assert not one & other
    if name == "splits":
        assert [len(classes[split]) for split in ("train", "validation", "test")] == [3, 1, 1]


def test_clues_are_drawn_evenly(splits):
    counts = Counter(sum(map(bool, problem.cells)) for problem in splits["train"])
    assert set(counts) == {4, 5, 6, 7, 8} and min(counts.values()) > 35  # of 60 each


def test_splits_depend_on_the_seed_alone(splits):
    assert TASK.splits() == splits
    other = Sudoku(train_problems=300, validation_problems=60, test_problems=60, split_seed=1)
    assert other.splits()["train"] != splits["train"]


def test_more_puzzles_than_there_are_are_refused_in_a_line(monkeypatch):
    monkeypatch.setattr("asyncthink_jax.tasks.sudoku.DRAWS", 20)
    few = Sudoku(min_clues=15, max_clues=15, train_problems=10, validation_problems=1, test_problems=5000)
    with pytest.raises(ValueError, match=r"test split: 5000 problems asked, [0-9]+ found: ask for fewer"):
        few.records()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"min_clues": 3}, "min_clues is 3 and max_clues 8; of size 4 they can be from 4 to 15"),
        ({"min_clues": 9}, "min_clues no larger than max_clues"),
        ({"max_clues": 16}, "from 4 to 15"),
        ({"size": 9}, "of size 9 they can be from 24 to 80"),
    ],
)
def test_clues_that_cannot_be_are_refused_in_a_line(fields, line):
    ((is_right, message),) = Sudoku(**fields).check()
    assert not is_right and line in message and "\n" not in message
    assert all(right for right, _ in Sudoku().check())


def test_a_question_is_words_of_cells_or_of_rows():
    assert SMALL.query == "1 . . 4 / . . . . / . 3 . . / . . 2 ."
    assert Problem(SMALL.puzzle, "rows").query == "1..4 .... .3.. ..2."
    assert SMALL.query in Sudoku().instructions and "9x9" in Sudoku(size=9).instructions


def test_problem_survives_json():
    assert Sudoku().from_json(SMALL.to_json()) == SMALL
    assert SMALL.to_json() == {"puzzle": "1..4.....3....2.", "words": "cells"}


# Scoring.

RIGHT = "1 2 3 4 / 3 4 1 2 / 2 3 4 1 / 4 1 2 3"


@pytest.mark.parametrize(
    ("answer", "correct", "answered"),
    [
        (RIGHT, 1, 1),
        (f" {RIGHT}", 1, 1),
        ("1234 3412 2341 4123", 1, 1),
        ("1 2 3 4\n3 4 1 2\n2 3 4 1\n4 1 2 3\n", 1, 1),
        ("1 2 | 3 4\r\n3 4 | 1 2\r\n----+----\r\n2 3 | 4 1\r\n4 1 | 2 3", 1, 1),
        (
            "+-----+-----+\n| 1 2 | 3 4 |\n| 3 4 | 1 2 |\n+=====+=====+\n| 2 3 | 4 1 |\n| 4 1 | 2 3 |\n+-----+-----+",
            1,
            1,
        ),
        ("[[1, 2, 3, 4], [3, 4, 1, 2], [2, 3, 4, 1], [4, 1, 2, 3]]", 1, 1),
        ("1234341223414123", 1, 1),
        ("2 1 3 4 / 3 4 1 2 / 1 2 4 3 / 4 3 2 1", 0, 1),  # keeps the rules, but not the clues
        ("1 2 3 4 / 3 4 1 2 / 4 3 2 1 / 2 1 2 3", 0, 1),  # keeps the clues, but not the rules
        ("1 2 3 4 / 2 1 4 3 / 4 3 1 2 / 3 4 2 1", 0, 1),  # rows, columns, clues, but not the boxes
        (RIGHT.replace("2 3 4 1", "2 3 . 1"), 0, 1),  # an empty cell
        (RIGHT[:-2], 0, 1),
        (f"{RIGHT} 1", 0, 1),
        (f"{RIGHT} / {RIGHT}", 0, 1),
        (f"The answer is {RIGHT}", 1, 1),
        (f"I think {RIGHT}", 0, 1),
        (f"```\n{RIGHT}\n```", 1, 1),
        (f"**{RIGHT}**.", 1, 1),
        ("| **1** | 2 | 3 | 4 |\n|---|---|---|---|\n| 3 | 4 | 1 | 2 |\n| 2 | 3 | 4 | 1 |\n| 4 | 1 | 2 | 3 |", 1, 1),
        ("| **1** | 2 | 3 | 4 |\n|:-:|:-:|:--|--:|\n| 3 | 4 | 1 | 2 |\n| 2 | 3 | 4 | 1 |\n| 4 | 1 | 2 | 3 |", 1, 1),
        ("['1234', '3412', '2341', '4123']", 1, 1),
        ("1 2 \u2502 3 4\n3 4 \u2502 1 2\n\u2500\u2500\u253c\u2500\u2500\n2 3 \u2502 4 1\n4 1 \u2502 2 3", 1, 1),
        (RIGHT.replace(" ", "\N{NO-BREAK SPACE}"), 1, 1),
        ("None", 0, 0),
        (RIGHT.replace("1", "\uff11"), 1, 1),  # full width
        (RIGHT.replace("1", "\N{ARABIC-INDIC DIGIT ONE}"), 0, 1),  # a digit, but not ours
        (RIGHT.replace("4", "5"), 0, 1),
        (RIGHT.replace("1 2", "-1 2", 1), 0, 1),
        ("solved", 0, 1),
        (" none", 0, 0),
        ("  ", 0, 0),
        ("", 0, 0),
        (None, 0, 0),
    ],
)
def test_scores(answer, correct, answered):
    expected = {"accuracy": float(correct), "correct": correct, "answered": answered, "wrong": answered - correct}
    assert TASK.score(SMALL, answer) == expected


def test_any_completion_that_keeps_the_clues_is_right():
    """Not every question of a user has one solution."""
    open_problem = Problem("1..4............")
    completions = sudoku_grids.solutions(open_problem.cells, 1000)
    assert len(completions) > 10
    assert all(TASK.score(open_problem, str(list(grid)))["accuracy"] == 1 for grid in completions)


def test_9x9_is_scored_too():
    assert NINE.score(LARGE, LARGE_SOLUTION)["accuracy"] == 1
    assert NINE.score(LARGE, LARGE_SOLUTION[::-1])["accuracy"] == 0
    drawn = "\n".join("| " + " | ".join(LARGE_SOLUTION[i : i + 9]) + " |\n" + "+---" * 9 + "+" for i in range(0, 81, 9))
    assert len("+---" * 9 + "+\n" + drawn) == 721 < MAX_ANSWER_CHARACTERS
    assert NINE.score(LARGE, "+---" * 9 + "+\n" + drawn)["accuracy"] == 1


def hostile_answers(n):
    rng = random.Random(0)
    fixed = ["1" * 10**6, "-" * 1024, "-|" * 512, " " * 1024, "+-" * 500 + "x", "\n" * 1024, "-\n" * 512, "|" * 1024]
    fixed += [(" -=+|" * 200 + "\n") + "x", "\ud800" * 16, "\u0661" * 16, "\x00" * 16, "1e9" * 300, "()" * 512]
    alphabet = "0123456789 /|,;[]()-+=.\n\t\r_none\u0663\u00b2<ANSWER>"
    for i in range(n):
        yield fixed[i % len(fixed)] if i % 2 else "".join(rng.choices(alphabet, k=rng.randrange(1100)))


@pytest.mark.parametrize(("task", "problem"), [(TASK, SMALL), (NINE, LARGE)])
def test_hostile_answers_do_no_harm_and_cost_little(task, problem):
    answers = list(hostile_answers(4000))
    start = time.process_time()
    scores = [task.score(problem, answer) for answer in answers]
    assert (time.process_time() - start) / len(answers) < 1e-3
    assert all(score["correct"] == 0 for score in scores)
    assert parse("1" * 10**6, 4) is None and parse(RIGHT + " " * 2000, 4) is None


# The parallel paradigm.


def test_merging_takes_the_grid_that_most_answers_are():
    other = "2 1 3 4 / 3 4 1 2 / 1 2 4 3 / 4 3 2 1"
    assert TASK.merge([other, RIGHT, "1234 3412 2341 4123", None, "none"]) == f" {RIGHT}"
    assert TASK.merge([other, RIGHT]) == f" {other}"  # the first of those with as many
    assert TINY.merge([RIGHT]) == " 1234 3412 2341 4123"


def test_merging_does_not_look_at_the_puzzle_and_drops_what_is_no_grid():
    broken = "1 1 1 1 / 1 1 1 1 / 1 1 1 1 / 1 1 1 1"
    assert TASK.merge([broken, RIGHT, broken]) == f" {broken}"
    assert TASK.merge([None, "none", RIGHT[:-1], RIGHT.replace("4", "5"), "1" * 10**6]) is None


# Thorough ones.


@pytest.mark.slow
def test_rows_solve_every_4x4_puzzle_that_has_one_solution():
    """Of one solution per class; more clues than these only help."""
    every = np.array(sudoku_grids.solutions((0,) * 16, 1000))
    solved = 0
    for solution in {sudoku_grids.symmetry_class(grid): grid for grid in map(tuple, every.tolist())}.values():
        for clues in (4, 5, 6):  # no puzzle with more needs all of them
            for kept in map(list, itertools.combinations(range(16), clues)):
                if (every[:, kept] == np.array(solution)[kept]).all(axis=1).sum() == 1:
                    cells = tuple(cell if place in kept else 0 for place, cell in enumerate(solution))
                    organizer = sudoku_scripts.Organizer(SMALL, cells, str, 0)
                    assert sudoku_scripts.sequential_demonstration(organizer) is not None
                    assert organizer.grid == solution
                    solved += 1
    assert solved > 10_000


def spoiled(rng, puzzle, solution):
    """Answers in reasoning-gym's form that are not right, by what is wrong with them."""
    size = len(solution)

    def changed(places, grid=solution):
        grid = [list(row) for row in grid]
        for place in places:
            row, column = divmod(int(place), size)
            grid[row][column] = 1 + (grid[row][column] + int(rng.integers(size - 1))) % size
        return grid

    clues = [place for place in range(size * size) if puzzle[place // size][place % size]]
    holes = sorted(set(range(size * size)) - set(clues))
    names = [0, *rng.permutation(size) + 1]
    yield "a wrong cell", changed([rng.choice(holes)])
    yield "a clue changed", changed([rng.choice(clues)])
    yield "several wrong cells", changed(rng.choice(size * size, size // 2, replace=False))
    yield "digits renamed", [[names[cell] for cell in row] for row in solution]
    yield "reflected", [list(row) for row in zip(*solution, strict=True)]
    yield "at random", rng.integers(1, size + 1, (size, size)).tolist()
    yield "a row missing", solution[:-1]
    yield "a cell missing", [*solution[:-1], solution[-1][:-1]]
    yield "a row too many", [*solution, solution[0]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "puzzles"), [("mini_sudoku", 4, 600), ("sudoku", 9, 60)])
def test_reasoning_gym_says_the_same_of_thousands_of_grids_and_its_puzzles_are_solved(name, size, puzzles):
    """Its own answer is the one solution, so both give 1 to the same grids. It has part marks for wrong ones."""
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(name, size=puzzles, seed=7)
    rng, seen = np.random.default_rng(0), Counter()
    for entry in dataset:
        puzzle, solution = entry["metadata"]["puzzle"], entry["metadata"]["solution"]
        problem = Problem("".join(str(cell or ".") for row in puzzle for cell in row))
        task = Sudoku(size=size)
        assert solution_of(problem) == tuple(cell for row in solution for cell in row)
        for kind, grid in [("right", solution), *spoiled(rng, puzzle, solution)]:
            answer = "\n".join(" ".join(map(str, row)) for row in grid)
            theirs, ours = dataset.score_answer(answer, entry), task.score(problem, answer)["accuracy"]
            assert ours == (theirs == 1), (kind, answer)
            seen[kind, ours] += 1
        for answer in ("", "none", f"{entry['answer']} solved", entry["answer"][:-1], entry["question"]):
            assert dataset.score_answer(answer, entry) < 1 and task.score(problem, answer)["accuracy"] == 0
    assert seen["right", 1.0] == puzzles and seen["a clue changed", 0.0] == puzzles
    assert sum(seen.values()) == 10 * puzzles
