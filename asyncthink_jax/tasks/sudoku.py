"""Sudoku, 4x4 and 9x9: fill the grid so that every row, column and box has every digit once (paper, section 5).

A puzzle has one solution; its clues, the cells that are filled already, say how hard it is. All texts are words
separated by single spaces. A word is a cell, or with `words="rows"` a whole row, so that a 4x4 grid is four tokens for
a model that learns from scratch:

    problem     1 . . 4 / . . . . / . 3 . . / . . 2 .                       or 1..4 .... .3.. ..2.
    answer      `<ANSWER> 1 2 3 4 / 3 4 1 2 / 2 3 4 1 / 4 1 2 3</ANSWER>`   or `<ANSWER> 1234 3412 2341 4123</ANSWER>`

How the work divides, and how it is written, stands in `sudoku_scripts.py`.

No two splits share a solution, however it is rotated or reflected and whatever its digits are called
(`sudoku_grids.py:symmetry_class`), and so no puzzle either. Of the five classes of 4x4 solutions the test split has one
and validation another, so a model that only knows its training grids by heart is found out. Up to swaps of rows and
columns as well there are but two 4x4 grids: by those nothing can be kept apart.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from asyncthink_jax.tasks import answer_text, sudoku_grids, sudoku_scripts
from asyncthink_jax.tasks.sudoku_grids import Grid
from asyncthink_jax.tasks.task import INF, FieldType, Kind, Record, Score, Script, Splits, Task, one_part, shown

Words = Literal["cells", "rows"]
LEAST_CLUES = {4: 4, 9: 24}  # 4x4: there are none with fewer; 9x9: taking clues away seldom gets further
MAX_ANSWER_CHARACTERS = 1024  # a longer answer is not looked at; 9x9 with a line around every cell has 741
DRAWS = 1000  # that give nothing new, in a row, after which it is given up

_BORDER = re.compile(r"[-+=:| \t]*[-+=][-+=:| \t]*")  # a line drawn between rows
_BETWEEN = str.maketrans("", "", " \t/|,;[]()\"'")  # what may stand between cells


@dataclasses.dataclass(frozen=True)
class Problem:
    """A puzzle row by row, with a dot for an empty cell: 16 characters, or 81."""

    puzzle: str
    words: Words = "cells"

    @cached_property
    def cells(self) -> Grid:
        return tuple(0 if cell == "." else int(cell) for cell in self.puzzle)

    @property
    def query(self) -> str:
        return written(self.cells, sudoku_grids.size_of(self.cells), self.words).strip()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def written(cells: Sequence[int], size: int, words: Words) -> str:
    """The cells of one row or of several as words, a space before each."""
    rows = ["".join(str(cell or ".") for cell in cells[start : start + size]) for start in range(0, len(cells), size)]
    if words == "rows":
        return "".join(f" {row}" for row in rows)
    return " " + " / ".join(" ".join(row) for row in rows)


def parse(answer: str | None, size: int) -> Grid | None:
    """The full grid that an answer is, or None for anything else. Never raises.

    Its digits row by row, with spaces, line breaks, any of `/ | , ; [ ] ( )`, quotes or nothing between them, and with
    lines drawn between rows, in any dress (`answer_text.py`). A grid with an empty cell is none, and so is one with a
    word beside it.
    """
    if answer is None or len(answer) > MAX_ANSWER_CHARACTERS:
        return None
    lines = (line for line in answer_text.clean(answer).splitlines() if not _BORDER.fullmatch(line))
    digits = "".join(lines).translate(_BETWEEN)
    if len(digits) != size * size or not set(digits) <= set("123456789"[:size]):
        return None
    return tuple(int(digit) for digit in digits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sudoku(Task[Problem]):
    """Puzzles with one solution, made at random; their number of clues is drawn evenly between the two bounds."""

    name: str = "sudoku"
    size: Literal[4, 9] = 4  # cells in a row
    min_clues: int = 4  # fewest cells that are filled already
    max_clues: int = 8  # most of them
    train_problems: int = 10_000  # size of the training split: a 4x4 puzzle takes 0.6 ms, a 9x9 one 10 to 100 ms
    test_problems: int = 400  # as in the paper
    words: Words = "cells"  # what a word is in all texts: cells for a model that reads, rows for one from scratch
    in_order: float = shown(0.5)  # share of demonstrations that take their rows, and join workers, in order
    own_look: float = shown(0.15)  # chance that an organizer looks at a row itself although a worker is free
    forks: int = shown(6)  # most sub-queries of a demonstration, at most pool.max_forks

    fields: ClassVar[Mapping[str, FieldType]] = {"puzzle": "text"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        **Task.ranges,
        "train_problems": (1, INF),
        "min_clues": (4, 80),
        "max_clues": (4, 80),
        "in_order": (0, 1),
        "own_look": (0, 1),
        "forks": (0, INF),
    }

    def check(self) -> Iterator[tuple[bool, str]]:
        least, most = LEAST_CLUES[self.size], self.size**2 - 1
        yield (
            least <= self.min_clues <= self.max_clues <= most,
            f"task: min_clues is {self.min_clues} and max_clues {self.max_clues}; of size {self.size} they can be from "
            f"{least} to {most}, min_clues no larger than max_clues",
        )

    @property
    def demonstrated_forks(self) -> int:
        return self.forks

    @property
    def instructions(self) -> str:
        n, side = self.size, math.isqrt(self.size)
        apart = "with / between rows" if self.words == "cells" else "rows apart"
        example = written(_EXAMPLES[n], n, self.words).strip()
        return (
            f'Task: a question is a {n}x{n} Sudoku row by row, {apart} and a dot for an empty cell, like "{example}". '
            f"Fill each empty cell with a digit from 1 to {n}, so that every row, every column and every box (there "
            f"are {n} of {side}x{side} cells) has every digit once. The answer is the whole grid in the same form and "
            "nothing else, inside <ANSWER>..</ANSWER>. A good sub-query is the whole grid as far as you know it, and "
            f"which part of it to work on, like <FORK-1>{n}x{n} Sudoku {example} : which cells of row 2 have only one "
            "digit left?</FORK-1>."
        )

    def tokenizer_texts(self) -> list[str]:
        n = self.size
        digits = [str(digit) for digit in range(1, n + 1)]
        words = [*digits, ":", "col", "box", "left", *(f"{axis}{digit}" for axis in "rc" for digit in digits)]
        if self.words == "cells":
            words += [".", "/"]
        elif n == 4:
            words += sudoku_scripts.row_words(n)
        else:
            raise ValueError(f"task.words is rows, but rows of {n} are too many to be words: only those of 4 can be")
        return ["".join(f" {word}" for word in words), "solve", "work"] * 20

    # -------------------------------------------------------------------------------------------------------- problems

    def records(self, skip_bad: bool = False) -> dict[str, list[Record]]:
        """Every solution belongs to the split that its symmetry class was given to; a puzzle comes once in a split.

        4x4: the five classes are shuffled by the seed, and given to test, validation, and three times to training. 9x9:
        a class, of which there are billions, belongs to the split that it first comes in.
        """
        rng = np.random.default_rng(self.split_seed)
        owners: dict[Grid, str] = {}
        if self.size == 4:
            every = sudoku_grids.solutions((0,) * 16, 1000)
            classes = sorted({sudoku_grids.symmetry_class(solution) for solution in every})
            rng.shuffle(classes)
            owners = {tuple(one): "train" for one in classes}
            owners |= {tuple(classes[0]): "test", tuple(classes[1]): "validation"}
        asked = {
            "train": self.train_problems,
            "validation": self.validation_problems,
            "test": self.test_problems,
        }
        return {name: self._drawn(name, asked[name], owners, rng) for name in self.split_names}

    def _drawn(self, split: str, asked: int, owners: dict[Grid, str], rng: np.random.Generator) -> list[Record]:
        found: dict[Grid, None] = {}  # an ordered set
        in_vain = 0
        while len(found) < asked:
            solution = sudoku_grids.random_solution(self.size, rng)
            if owners.setdefault(sudoku_grids.symmetry_class(solution), split) != split:
                continue
            puzzle = sudoku_grids.dug(solution, int(rng.integers(self.min_clues, self.max_clues + 1)), rng)
            in_vain = 0 if puzzle is not None and puzzle not in found else in_vain + 1
            if in_vain == DRAWS:
                raise ValueError(f"{split} split: {asked} problems asked, {len(found)} found: ask for fewer")
            if puzzle is not None:
                found[puzzle] = None
        return [{"puzzle": "".join(str(cell or ".") for cell in puzzle)} for puzzle in found]

    def problems(self, record: Record) -> list[Problem]:
        return [Problem(record["puzzle"], self.words)]

    def from_json(self, record: Record) -> Problem:
        return Problem(str(record["puzzle"]), record["words"])

    # -------------------------------------------------------------------------------------------------- demonstrations

    def script(self, splits: Splits, kind: Kind, agents: int, rng: np.random.Generator) -> Script:
        source = splits["train"]
        for _ in range(DRAWS):
            problem = source[int(rng.integers(len(source)))]
            organizer = sudoku_scripts.Organizer(problem, problem.cells, self._written, self.forks)
            if kind == "random":
                script = sudoku_scripts.random_demonstration(organizer, agents, rng, self.in_order, self.own_look)
            elif kind == "oracle":
                script = sudoku_scripts.oracle_demonstration(organizer, agents)
            else:
                script = sudoku_scripts.sequential_demonstration(organizer)
            if script is not None:
                return script
        raise ValueError(
            f"none of {DRAWS} puzzles is solved by looking at its rows, so none can be demonstrated: more clues "
            "(task.min_clues) make puzzles easier"
        )

    def _written(self, cells: Sequence[int]) -> str:
        return written(cells, self.size, self.words)

    # --------------------------------------------------------------------------------------------------------- scoring

    def score(self, problem: Problem, answer: str | None) -> Score:
        """Any full grid that keeps rules and clues is right, all others are wrong: accuracy is 0 or 1, as in the paper.

        A grid in which some cells are right earns nothing: cells can be copied from the question, or guessed.
        """
        if answer is None or answer_text.clean(answer[:MAX_ANSWER_CHARACTERS]).casefold() in ("", "none"):
            return one_part(False, is_answered=False)
        grid = parse(answer, self.size)
        kept = grid is not None and all(clue in (0, cell) for clue, cell in zip(problem.cells, grid, strict=True))
        return one_part(kept and grid is not None and sudoku_grids.keeps_rules(grid))

    def merge(self, answers: Sequence[str | None]) -> str | None:
        """The grid that most answers are, the first of those with as many; None if no answer is a full grid."""
        grids = (parse(answer, self.size) for answer in answers)
        votes = Counter(grid for grid in grids if grid is not None)
        return self._written(votes.most_common(1)[0][0]) if votes else None


_EXAMPLES: dict[int, Grid] = {
    4: Problem("1..4.....3....2.").cells,
    9: Problem("53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79").cells,
}
