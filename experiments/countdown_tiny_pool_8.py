"""The tiny demo with a pool of eight, more than there are pairs to hand out.

Shows:       what the capacity of the pool is worth, beside experiments/countdown_tiny_pool_2.py.
Expected:    all six pairs forked at once, so a shorter critical path than with c = 4, whose organizer waits for free
             workers; eta / c lower, since seven agents are the most that can be busy.
Same as experiments/countdown_tiny.py but for: the pool; one more row for the workers of an episode, and fewer slots,
             for as many rows in all.
Hardware:    2 CPU cores.
Time:        15 minutes.
Command:     make reproduce-tiny
             = python -m asyncthink_jax.train --config experiments/countdown_tiny_pool_8.py
             --workdir runs/countdown_tiny_pool_8
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
