"""The ablation of the tiny demo without the concurrency reward (paper, Table 3): the same cold start, lambda = 0.

Shows:       what the concurrency reward does to the critical path.
Same as experiments/countdown_tiny.py but for: rl.concurrency_weight = 0; the cold start is that run's own.
Expected:    as accurate, the critical path at least 15% longer (paper: 85.3 and 89.0%, 6,251 and 4,525 tokens).
Hardware:    2 CPU cores.
Time:        9 minutes, RL alone.
Command:     make baselines
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    return dataclasses.replace(
        base,
        name="countdown_tiny_accuracy_only",
        rl=dataclasses.replace(base.rl, concurrency_weight=0.0),
    )
