"""Generalisation on the tiny task: trained on problems of three numbers, asked for problems of four.

Shows:       whether the organization carries over to a problem with more to organize. The paper's own case is another
             task (4x4 Sudoku, by a model trained on Countdown alone), which no model from scratch can read.
Expected:    little on four numbers. Three numbers have three pairs, so the fork ids 4 to 6 occur in no demonstration,
             and no worker has ever had two other numbers to combine its pair with.
Same as experiments/countdown_tiny.py but for: three numbers; two solutions asked for, since only 42 problems of three
             numbers have four; 300 test problems of the 1,814 that there are.
Hardware:    2 CPU cores.
Time:        12 minutes, and 1 for the problems of four numbers.
Command:     make studies
             = python -m asyncthink_jax.train --config experiments/countdown_tiny_three_numbers.py
             --workdir runs/countdown_tiny_three_numbers, then
             python -m asyncthink_jax.evaluate --workdir runs/countdown_tiny_three_numbers --config.task.numbers=4
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    return dataclasses.replace(
        base,
        name="countdown_tiny_three_numbers",
        task=dataclasses.replace(base.task, numbers=3, n_solutions=2, test_problems=300),
    )
