"""The tiny demo with a pool of two: the organizer and one worker.

Shows:       what the capacity of the pool is worth; the paper trains c = 2 (MCD) and c = 4 (math) and compares none.
             c = 1 is experiments/countdown_tiny_sequential.py, c = 4 experiments/countdown_tiny.py.
Expected:    a critical path between theirs. Two agents that are never idle have eta / c = 1, which one who has to fork,
             join and answer beside searching can't reach; higher than with c = 4 all the same.
Same as experiments/countdown_tiny.py but for: the pool; more slots, for as many rows; longer organizers, since
             with one worker busy most searches are the organizer's own.
Hardware:    2 CPU cores.
Time:        15 minutes.
Command:     make reproduce-tiny
             = python -m asyncthink_jax.train --config experiments/countdown_tiny_pool_2.py
             --workdir runs/countdown_tiny_pool_2
Special:     0.3% of the demonstrations are longer than a row of the cold start, and left out.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    return dataclasses.replace(
        base,
        name="countdown_tiny_pool_2",
        pool=dataclasses.replace(base.pool, agents=2),
        rollout=dataclasses.replace(base.rollout, slots=36, organizer_budget=232, context=256),
    )
