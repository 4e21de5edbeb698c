"""Sudoku's demonstrations: what they look at, fork and join.

That they break no rule of the protocol is checked where they meet it: tests/data/test_sudoku_demonstrations.py.
"""

from collections import Counter

import numpy as np
import pytest
from puzzles import NINE, SMALL, TASK, TINY

from asyncthink_jax.tasks import sudoku_scripts
from asyncthink_jax.tasks.sudoku import Problem, Sudoku


@pytest.fixture(scope="module")
def splits():
    return TASK.splits()


def actions(script):
    return [piece for piece in script.organizer if piece.startswith(("<FORK", "<JOIN", "<ANSWER"))]


def looks(script):
    """(grid, row) of every look, own ones included, in order."""
    return [piece.rsplit(" ", 1) for piece in script.organizer if piece[-2:-1] == "r" and not piece.startswith(" c")]


def test_a_look_writes_what_is_left_for_each_empty_cell_and_fills_in_what_is_forced():
    text, row = sudoku_scripts.look(SMALL.cells, 0)
    assert text == " c2 col 3 box left 2 c3 col 2 box left 3" and row == (1, 2, 3, 4)
    text, row = sudoku_scripts.look(SMALL.cells, 1)
    assert text == " c1 col 1 box left 2 3 4 c2 col 3 box 1 left 2 4 c3 col 2 box 4 left 1 3 c4 col 4 box left 1 2 3"
    assert row == (0, 0, 0, 0)


def test_a_worker_returns_the_row_that_its_sub_query_names():
    script = TINY.script({"train": [Problem(SMALL.puzzle, "rows")]}, "oracle", 4, np.random.default_rng(0))
    assert script.organizer[3:6] == ("<FORK-2>", " 1..4 .... .3.. ..2. r1", "</FORK-2>")
    assert script.workers[2] == " c2 col 3 box left 2 c3 col 2 box left 3<RETURN> r1 1234</RETURN>"
    assert script.returns[2] == " r1 1234"
    script = TASK.script({"train": [SMALL]}, "oracle", 4, np.random.default_rng(0))
    assert script.organizer[4] == " 1 . . 4 / . . . . / . 3 . . / . . 2 . r1" and script.returns[2] == " r1 1 2 3 4"


@pytest.mark.parametrize("kind", ["random", "oracle", "sequential"])
@pytest.mark.parametrize("words", ["cells", "rows"])
def test_a_demonstration_ends_with_the_right_answer(kind, words):
    task = Sudoku(train_problems=100, validation_problems=1, test_problems=1, words=words)
    found, rng = task.splits(), np.random.default_rng(0)
    for _ in range(100):
        script = task.script(found, kind, 4, rng)
        assert script.organizer[-3::2] == ("<ANSWER>", "</ANSWER>")
        assert task.score(script.problem, script.organizer[-2])["accuracy"] == 1
        assert set(script.workers) == set(script.returns)
        assert all(text.endswith(f"<RETURN>{script.returns[i]}</RETURN>") for i, text in script.workers.items())


def test_large_puzzles_that_rows_solve_are_demonstrated():
    nine = NINE.splits()
    for kind in ("random", "oracle", "sequential"):
        script = NINE.script(nine, kind, 4, np.random.default_rng(0))
        assert NINE.score(script.problem, script.organizer[-2])["accuracy"] == 1


def test_puzzles_that_rows_do_not_solve_are_refused_in_a_line(monkeypatch):
    monkeypatch.setattr("asyncthink_jax.tasks.sudoku.DRAWS", 3)
    hard = Problem("8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..")
    for kind in ("random", "oracle", "sequential"):
        with pytest.raises(ValueError, match="none of 3 puzzles is solved by looking at its rows"):
            NINE.script({"train": [hard]}, kind, 4, np.random.default_rng(0))


def test_an_organizer_looks_at_rows_with_empty_cells_that_nobody_has_seen_so(splits):
    rng = np.random.default_rng(3)
    for _ in range(200):
        script = TASK.script(splits, "random", 4, rng)
        seen, out, row_of = {}, set(), {}
        for place, piece in enumerate(script.organizer):
            if piece.startswith("<JOIN"):
                out.remove(row_of[piece[6:-1]])
            elif piece[-2:-1] == "r" and not piece.startswith(" c"):
                grid, row = piece.rsplit(" ", 1)
                assert "." in grid.split("/")[int(row[1]) - 1]
                assert row not in out and seen.get(row) != grid
                seen[row] = grid
                before = script.organizer[place - 1]
                if before.startswith("<FORK"):
                    out.add(row)
                    row_of[before[6:-1]] = row
        assert not out


def test_a_sub_query_holds_all_that_is_known_by_then(splits):
    rng = np.random.default_rng(4)
    for _ in range(100):
        script = TASK.script(splits, "random", 4, rng)
        rows = script.problem.query.split(" / ")
        for piece in script.organizer:
            takeaway = ""
            if piece.startswith("<JOIN"):
                takeaway = script.returns[int(piece[6:-1])]
            elif " left " in piece:
                takeaway = piece[piece.rindex(" r") :]
            elif piece[-2:-1] == "r":
                assert piece.rsplit(" ", 1)[0].strip() == " / ".join(rows)
            if takeaway:
                name, cells = takeaway.strip().split(" ", 1)
                rows[int(name[1]) - 1] = cells
        assert script.organizer[-2].strip() == " / ".join(rows)


def test_random_demonstrations_take_every_structure_of_two_rows_that_are_independent():
    """Rows 1 and 4 lack one cell each, and nothing else is missing."""
    problem = Problem("12.43412214343.1")
    rng = np.random.default_rng(0)
    scripts = [Sudoku().script({"train": [problem]}, "random", 3, rng) for _ in range(2000)]
    f1, f2, j1, j2 = "<FORK-1>", "<FORK-2>", "<JOIN-1>", "<JOIN-2>"
    both = {tuple(actions(s)[:-1]) for s in scripts if len(s.workers) == 2}
    assert both == {(f1, f2, j1, j2), (f1, f2, j2, j1), (f1, j1, f2, j2)}
    mixed = {tuple(p for p in s.organizer if p in (f1, j1, " :")) for s in scripts if len(s.workers) == 1}
    assert mixed == {(f1, " :", j1), (f1, j1, " :"), (" :", f1, j1)}
    assert any(not s.workers for s in scripts)
    assert {looks(s)[0][1] for s in scripts} == {"r1", "r4"}


def test_an_orderly_demonstration_goes_through_the_rows_again_and_again(splits):
    task = Sudoku(in_order=1.0, own_look=0.0)
    rng = np.random.default_rng(5)
    for _ in range(50):
        script = task.script(splits, "sequential", 4, rng)
        rows = [int(row[1]) for _, row in looks(script)]
        known = script.problem.query.split(" / ")
        first_round = [row for row in range(1, 5) if "." in known[row - 1]]
        assert rows[: len(first_round)] == first_round and not script.workers


def test_no_more_is_forked_than_there_are_ids(splits):
    task = Sudoku(forks=2)
    rng = np.random.default_rng(6)
    counts = Counter(
        len(task.script(splits, kind, 4, rng).workers) for kind in ("random", "oracle") for _ in range(200)
    )
    assert max(counts) == 2 and counts[2] > 100


def test_the_oracle_never_looks_in_vain(splits):
    rng = np.random.default_rng(7)
    for _ in range(200):
        script = TASK.script(splits, "oracle", 4, rng)
        for grid, row in looks(script):
            cells = tuple(0 if cell == "." else int(cell) for cell in grid.replace("/", "").split())
            number = int(row[1]) - 1
            assert sudoku_scripts.look(cells, number)[1] != cells[number * 4 : number * 4 + 4]


def test_demonstrations_depend_on_the_generator_alone(splits):
    one, two = (TASK.script(splits, "random", 4, np.random.default_rng(7)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("task", [TASK, TINY, NINE])
def test_every_word_is_in_the_texts_of_the_tokenizer(task):
    known, rng = {word for text in task.tokenizer_texts() for word in text.split()}, np.random.default_rng(8)
    found = task.splits()
    for kind in ("random", "oracle", "sequential"):
        script = task.script(found, kind, 4, rng)
        texts = [script.problem.query, *(p for p in script.organizer if p[0] == " "), *script.workers.values()]
        words = " ".join(texts).replace("<RETURN>", "").replace("</RETURN>", "").split()
        assert set(words) <= known


def test_rows_of_nine_cells_are_no_words():
    assert len(sudoku_scripts.row_words(4)) == 209
    with pytest.raises(ValueError, match="rows of 9 are too many to be words"):
        Sudoku(size=9, min_clues=30, max_clues=40, words="rows").tokenizer_texts()
