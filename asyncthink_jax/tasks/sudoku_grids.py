"""Sudoku grids: the rules, a solver, puzzles with one solution, and which solutions are the same but for symmetry.

A grid is a tuple of size * size numbers, row by row, 0 = empty. The size is a square: 4 (boxes of 2 x 2) or 9.
"""

import math
from functools import lru_cache

import numpy as np

Grid = tuple[int, ...]


@lru_cache
def units(size: int) -> tuple[tuple[int, ...], ...]:
    """The places of every row, then of every column, then of every box: each holds every digit once."""
    rows = [tuple(range(r * size, (r + 1) * size)) for r in range(size)]
    columns = [tuple(range(c, size * size, size)) for c in range(size)]
    side = math.isqrt(size)
    boxes = [
        tuple(rows[top + r][left + c] for r in range(side) for c in range(side))
        for top in range(0, size, side)
        for left in range(0, size, side)
    ]
    return (*rows, *columns, *boxes)


@lru_cache
def _units_of(size: int) -> tuple[tuple[int, int, int], ...]:
    """For every place, the numbers of its row, column and box among `units`."""
    at: list[list[int]] = [[] for _ in range(size * size)]
    for number, unit in enumerate(units(size)):
        for place in unit:
            at[place].append(number)
    return tuple((row, column, box) for row, column, box in at)


def size_of(grid: Grid) -> int:
    """Cells in a row."""
    return math.isqrt(len(grid))


def keeps_rules(grid: Grid) -> bool:
    """Whether the grid is full, and every row, column and box has every digit once."""
    size = size_of(grid)
    digits = set(range(1, size + 1))
    return all({grid[place] for place in unit} == digits for unit in units(size))


def solutions(puzzle: Grid, limit: int, rng: np.random.Generator | None = None) -> list[Grid]:
    """Up to `limit` completions of a puzzle, by trying the digits of the cell that has fewest left.

    The digits are tried in ascending order, or with `rng` in random order.
    """
    size = size_of(puzzle)
    units_of = _units_of(size)
    cells = list(puzzle)
    free = [(1 << size + 1) - 2] * (3 * size)  # bit d: the unit has no d yet
    for place, digit in enumerate(puzzle):
        for unit in units_of[place] if digit else ():
            if not free[unit] >> digit & 1:
                return []
            free[unit] -= 1 << digit
    empty = {place for place, digit in enumerate(puzzle) if not digit}
    found: list[Grid] = []

    def fill() -> None:
        if not empty:
            found.append(tuple(cells))
            return
        left, fewest = 0, size + 1
        for place in empty:
            row, column, box = units_of[place]
            options = free[row] & free[column] & free[box]
            if options.bit_count() < fewest:
                chosen, left, fewest = place, options, options.bit_count()
                if fewest < 2:
                    break
        digits = [digit for digit in range(1, size + 1) if left >> digit & 1]
        if rng is not None:
            rng.shuffle(digits)
        empty.remove(chosen)
        for digit in digits:
            for unit in units_of[chosen]:
                free[unit] ^= 1 << digit
            cells[chosen] = digit
            fill()
            for unit in units_of[chosen]:
                free[unit] ^= 1 << digit
            if len(found) == limit:
                break
        cells[chosen] = 0
        empty.add(chosen)

    fill()
    return found


def random_solution(size: int, rng: np.random.Generator) -> Grid:
    """A full grid at random (every one can come, not all are equally likely)."""
    return solutions((0,) * (size * size), 1, rng)[0]


def dug(solution: Grid, clues: int, rng: np.random.Generator) -> Grid | None:
    """A puzzle with this solution alone: clues taken away in random order, none without which there are others.

    None if that ends above the number of `clues` asked for.
    """
    cells, left = list(solution), len(solution)
    for place in rng.permutation(len(cells)):
        if left == clues:
            break
        digit, cells[place] = cells[place], 0
        if len(solutions(tuple(cells), 2)) == 1:
            left -= 1
        else:
            cells[place] = digit
    return tuple(cells) if left == clues else None


@lru_cache
def _turns(size: int) -> tuple[tuple[int, ...], ...]:
    """The eight rotations and reflections of the square, as orders of its places."""
    places = np.arange(size * size).reshape(size, size)
    images = [np.rot90(flipped, k) for flipped in (places, places.T) for k in range(4)]
    return tuple(tuple(int(place) for place in image.ravel()) for image in images)


def symmetry_class(solution: Grid) -> Grid:
    """The same for a full grid and all that renaming digits, rotating and reflecting makes of it: the least of them.

    4x4 has 288 full grids in five such classes, of 24, 24, 48, 96 and 96. (Rows and columns may also be swapped within
    a band, and bands: up to that there are two classes, too few to keep splits apart by.)
    """
    images = []
    for order in _turns(size_of(solution)):
        names: dict[int, int] = {}
        images.append(tuple(names.setdefault(solution[place], len(names) + 1) for place in order))
    return min(images)
