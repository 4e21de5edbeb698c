"""The tiny demo with a pool of eight, more than there are pairs to hand out.

Shows:       the effect of the pool's capacity, beside experiments/countdown_tiny_pool_2.py.
Same as experiments/countdown_tiny.py but for: the pool; one more row for the workers of an episode, and fewer slots,
             for the same number of rows in all.
Command:     make reproduce-tiny
             = python -m asyncthink_jax.train --config experiments/countdown_tiny_pool_8.py
             --workdir runs/countdown_tiny_pool_8
Expect:      all four correct 94.3 ± 0.9% on a critical path of 105 ± 0.4 with eta / c 0.34 ± 0.00 (seed 0, temperature
             0.6). All six pairs are forked at once, so the path is shorter than with c = 4, whose organizer waits for
             free workers. eta / c is lower, since at most seven agents can be busy.
Hardware:    2 CPU cores.
Time:        15 minutes.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    return dataclasses.replace(
        base,
        name="countdown_tiny_pool_8",
        pool=dataclasses.replace(base.pool, agents=8),
        rollout=dataclasses.replace(base.rollout, slots=18, worker_rows=3),
    )
