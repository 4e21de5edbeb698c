"""4x4 Sudoku, from random weights to a model that organizes its own solving, on a laptop.

Reproduces:  nothing of the paper: there 4x4 Sudoku is asked of a model trained on Countdown alone
             (experiments/countdown_mcd.py has the command). This is a small demo of the task and of its demonstrations.
Task:        4x4 puzzles of 5 to 8 clues with one solution; pool c = 4; 400 test problems, whose solutions occur in no
             other split in any guise (asyncthink_jax/tasks/sudoku.py).
Command:     python -m asyncthink_jax.train --config experiments/sudoku_tiny.py --workdir runs/sudoku_tiny
Expect:      no number yet: not run in full. 800 steps of the cold start were too few: 40% of the looks return the right
             row, and no puzzle is solved (experiments/LOG.md).
Hardware:    2 CPU cores.
Time:        800 steps of the cold start took 2:50 minutes on one core.
Special:     A row of a grid is one token (`task.words`). The reward is that of experiments/countdown_tiny.py.
Chosen on:   nothing yet. Sizes and optimizer are those of experiments/countdown_tiny.py, lengths are the longest of the
             demonstrations.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, PoolConfig, experiment_file
from asyncthink_jax.tasks.sudoku import Sudoku


def get_config() -> Config:
    """Countdown's demo with another task, and shorter."""
    demo = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    return dataclasses.replace(
        demo,
        name="sudoku_tiny",
        task=Sudoku(words="rows", min_clues=5, max_clues=8, in_order=0.7, own_look=0.05, forks=12, answer_weight=1.5),
        pool=PoolConfig(max_forks=12),
        # The longest demonstrations have 240 tokens with what is joined, workers' 44 with their prompts.
        rollout=dataclasses.replace(
            demo.rollout, organizer_budget=224, worker_budget=40, context=256, worker_context=56
        ),
        sft=dataclasses.replace(demo.sft, steps=1500, rows=4, row_length=256, number_init=False),
        rl=dataclasses.replace(demo.rl, iterations=32),
    )
