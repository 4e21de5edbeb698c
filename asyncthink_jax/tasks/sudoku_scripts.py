"""Demonstrations of Sudoku: who looks at which row, in which order, as scripts, so that they can be read as text.

The work divides into looks at a row: for each of its empty cells, which digits its column, its box and its row leave.
A look is independent of others that are under way, needs the grid as far as it is known, and gives the row with the
cells that are forced. A look that came too early finds nothing and is repeated when more is known; so what an organizer
has to learn is which rows are worth a look at what moment, and to have several of them looked at at once.

    sub-query       " 1..4 .... .3.. ..2. r1"   (the grid as far as it is known, and a row)
    look            " c2 col 3 box left 2 c3 col 2 box left 3"
                                                (for each empty cell: the digits of its column, those of its box that
                                                are in neither its row nor its column, and the digits that are left)
    worker trace    the look, then `<RETURN> r1 1234</RETURN>`: the row with each cell for which one digit was left
    own look        " 1..4 .... .3.. ..2. r1 :" + the look + " r1 1234"  (by an organizer that looks itself)
    answer          `<ANSWER> 1234 3412 2341 4123</ANSWER>`

Every 4x4 puzzle with one solution is solved so; of 9x9 ones with 34 clues three in four, with 26 hardly any. Those that
are not solved so are not demonstrated.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from asyncthink_jax.tasks.schedule import interleave
from asyncthink_jax.tasks.script_writer import ScriptWriter
from asyncthink_jax.tasks.sudoku_grids import Grid, size_of, units
from asyncthink_jax.tasks.task import Problem, Script

Write = Callable[[Sequence[int]], str]  # cells of a row, or of all rows, to words with a space before each


def look(grid: Grid, row: int) -> tuple[str, Grid]:
    """What is written when a row (from 0) is looked at, and the row with the cells that are forced filled in."""
    size = size_of(grid)
    rows, columns, boxes = (units(size)[start : start + size] for start in range(0, 3 * size, size))
    cells = list(grid)
    words: list[str] = []
    for column, place in enumerate(rows[row]):
        if cells[place]:
            continue
        box = next(box for box in boxes if place in box)
        in_row = {cells[p] for p in rows[row]}
        in_column = [cells[p] for p in columns[column] if cells[p]]
        in_box = [cells[p] for p in box if cells[p] and cells[p] not in in_row and cells[p] not in in_column]
        left = [digit for digit in range(1, size + 1) if digit not in {*in_row, *in_column, *in_box}]
        words += [f"c{column + 1}", "col", *map(str, in_column), "box", *map(str, in_box), "left", *map(str, left)]
        if len(left) == 1:
            cells[place] = left[0]
    return "".join(f" {word}" for word in words), tuple(cells[place] for place in rows[row])


def row_words(size: int) -> list[str]:
    """Every row that can stand in a grid, with dots for empty cells: 209 of size 4."""
    rows = itertools.product(".123456789"[: size + 1], repeat=size)
    return ["".join(row) for row in rows if all(row.count(cell) == 1 for cell in row if cell != ".")]


class Organizer(ScriptWriter[Problem]):
    """Writes an organizer's script and keeps the grid as far as it is known."""

    def __init__(self, problem: Problem, grid: Grid, write: Write, max_forks: int):
        super().__init__(problem)
        self.grid, self.write, self.max_forks = grid, write, max_forks
        self.found: dict[int, tuple[int, Grid]] = {}  # fork's id: the row, and what the worker returns of it
        self.out: set[int] = set()  # rows that a worker looks at
        self.seen: dict[int, Grid] = {}  # row: the grid at the last look
        self.last = -1  # the row that was looked at last

    @property
    def is_done(self) -> bool:
        return 0 not in self.grid

    @property
    def may_fork(self) -> bool:
        return self.forks < self.max_forks

    def ready(self) -> list[int]:
        """Rows with empty cells that nobody looks at, or has looked at with the same grid; from the last one on."""
        size = size_of(self.grid)
        order = [(self.last + 1 + i) % size for i in range(size)]
        return [
            row
            for row in order
            if row not in self.out and self.seen.get(row) != self.grid and 0 in self.grid[row * size : (row + 1) * size]
        ]

    def fruitful(self) -> list[int]:
        """Those of the ready rows in which a look would fill cells, most cells first."""

        def filled(row: int) -> int:
            return self.grid[row * size : (row + 1) * size].count(0) - look(self.grid, row)[1].count(0)

        size = size_of(self.grid)
        return sorted((row for row in self.ready() if filled(row)), key=filled, reverse=True)

    def fork(self, row: int) -> int:
        fork_id = self.forks + 1
        text, cells = look(self.grid, row)
        self.write_fork(fork_id, self._sub_query(row), text, self._row(row, cells))
        self.found[fork_id] = row, cells
        self.out.add(row)
        self._looked_at(row)
        return fork_id

    def work(self, row: int) -> None:
        text, cells = look(self.grid, row)
        self.say(self._sub_query(row), " :")
        self.do(text + self._row(row, cells))
        self._looked_at(row)
        self._fill_in(row, cells)

    def join(self, fork_id: int) -> None:
        self.write_join(fork_id)
        row, cells = self.found[fork_id]
        self.out.remove(row)
        self._fill_in(row, cells)

    def answer(self) -> Script:
        return self.answered(self.write(self.grid))

    def _sub_query(self, row: int) -> str:
        return f"{self.write(self.grid)} r{row + 1}"

    def _row(self, row: int, cells: Grid) -> str:
        return f" r{row + 1}{self.write(cells)}"

    def _looked_at(self, row: int) -> None:
        self.seen[row], self.last = self.grid, row

    def _fill_in(self, row: int, cells: Grid) -> None:
        size = len(cells)
        self.grid = (*self.grid[: row * size], *cells, *self.grid[(row + 1) * size :])


def random_demonstration(
    organizer: Organizer, agents: int, rng: np.random.Generator, in_order: float, own_look: float
) -> Script | None:
    """A random interleaving of forks, own looks and joins (`schedule.py:interleave`); None if rows don't solve it.

    Any row with an empty cell may be looked at that nobody is looking at and that has not been looked at with the same
    grid. With probability `in_order` it is an orderly one: rows from top to bottom, again and again.
    """
    orderly, eagerness = rng.random() < in_order, rng.random()
    solved = interleave(organizer, agents, rng, orderly=orderly, eagerness=eagerness, own_share=own_look)
    return organizer.answer() if solved else None


def oracle_demonstration(organizer: Organizer, agents: int) -> Script | None:
    """The best organization that is known: no look in vain. None if rows don't solve the puzzle.

    A row in which a look fills cells is forked at once, the one with most cells first; if no worker is free, the
    organizer looks at it. Where there is none, the oldest worker is joined.
    """
    unjoined: list[int] = []
    while not organizer.is_done:
        rows = organizer.fruitful()
        if not rows and not unjoined:
            return None
        if not rows:
            organizer.join(unjoined.pop(0))
        elif len(unjoined) < agents - 1 and organizer.may_fork:
            unjoined.append(organizer.fork(rows[0]))
        else:
            organizer.work(rows[0])
    return organizer.answer()


def sequential_demonstration(organizer: Organizer) -> Script | None:
    """One trace, no forks: rows from top to bottom, again and again. None if that doesn't solve the puzzle."""
    while not organizer.is_done:
        rows = organizer.ready()
        if not rows:
            return None
        organizer.work(rows[0])
    return organizer.answer()
