"""The ablation of the tiny demo without the concurrency reward (paper, Table 3): the same cold start, lambda = 0.

Shows:       the effect of the concurrency reward on the critical path.
Same as experiments/countdown_tiny.py but for: rl.concurrency_weight = 0. The cold start is that run's own.
Command:     make baselines
Expect:      all four correct 88.4 ± 0.5% on a critical path of 228 ± 41.2 (three seeds, temperature 0.6): four points
             more than with the reward, on a path that is far longer. The paper: 85.3 against 89.0%, on 6,251 against
             4,525 tokens.
Hardware:    2 CPU cores.
Time:        9 minutes, RL alone.
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
