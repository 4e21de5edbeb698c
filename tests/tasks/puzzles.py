"""What the tests of Sudoku speak of: a puzzle, and the task in two vocabularies and two sizes."""

from asyncthink_jax.tasks.sudoku import Problem, Sudoku

SMALL = Problem("1..4.....3....2.")
TASK = Sudoku(train_problems=300, validation_problems=60, test_problems=60)
TINY = Sudoku(train_problems=300, validation_problems=60, test_problems=60, words="rows", forks=12)
NINE = Sudoku(size=9, min_clues=34, max_clues=40, train_problems=12, validation_problems=4, test_problems=4)
