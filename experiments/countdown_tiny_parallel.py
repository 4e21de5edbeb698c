"""The parallel baseline of the tiny demo: four independent traces, their answers merged by votes.

Reproduces:  the "Parallel" bars of the paper's Figure 5, in shape. How the paper merges solutions on this task is
             unknown. Here: the union of the traces' expressions, ranked by votes, cut to four.
Same as experiments/countdown_tiny_sequential.py but for: `pool.parallel_traces` traces an episode when it
             is scored. In training each trace has its own reward, as independent traces do. With the same seed the
             training is that of the sequential run, so that run's checkpoint is scored instead.
Command:     make baselines
             = python -m asyncthink_jax.evaluate --workdir runs/countdown_tiny_sequential --paradigm parallel
             --results runs/countdown_tiny
Expect:      all four correct 89.1 ± 3.0% on a critical path of 211 ± 9.1 (three seeds, temperature 0.6).
Hardware:    2 CPU cores.
Time:        1 minute, after the sequential run.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    return dataclasses.replace(
        experiment_file(Path(__file__).with_name("countdown_tiny_sequential.py")),
        name="countdown_tiny_parallel",
        paradigm="parallel",
    )
