"""Generalisation on the tiny task: trained on problems of three numbers, asked for problems of four.

Shows:       whether the organization carries over to a problem with more to organize. The paper's own case is another
             task (4x4 Sudoku, by a model trained on Countdown alone), which no model from random weights can read.
Same as experiments/countdown_tiny.py but for: three numbers; two solutions asked for, since only 42 problems of three
             numbers have four; 300 test problems of the 1,814 that there are.
Command:     make studies
             = python -m asyncthink_jax.train --config experiments/countdown_tiny_three_numbers.py
             --workdir runs/countdown_tiny_three_numbers, then
             python -m asyncthink_jax.evaluate --workdir runs/countdown_tiny_three_numbers --config.task.numbers=4
Expect:      all correct 83.7 ± 2.1% on a critical path of 60 ± 0.7 for three numbers, 16.7 ± 2.2% on 48 ± 0.5 for four
             (seed 0, temperature 0.6). Little carries over: three numbers have three pairs, so the fork ids 4 to 6
             occur in no demonstration, and no worker has ever had two other numbers to combine its pair with.
Hardware:    2 CPU cores.
Time:        12 minutes, and 1 for the problems of four numbers.
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
