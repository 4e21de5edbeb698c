"""The tiny demo with a pool of two: the organizer and one worker.

Shows:       the effect of the pool's capacity. The paper trains c = 2 (MCD) and c = 4 (math) and compares none. c = 1
             is experiments/countdown_tiny_sequential.py, c = 4 experiments/countdown_tiny.py.
Same as experiments/countdown_tiny.py but for: the pool; more slots, for the same number of rows; longer organizers,
             since with one busy worker most searches are the organizer's own.
Command:     make reproduce-tiny
             = python -m asyncthink_jax.train --config experiments/countdown_tiny_pool_2.py
             --workdir runs/countdown_tiny_pool_2
Expect:      all four correct 80.8 ± 1.6% on a critical path of 159 ± 0.9 with eta / c 0.76 ± 0.00 (seed 0, temperature
             0.6): a path between those of c = 1 and c = 4, and busier agents than with c = 4. Two agents that are never
             idle would have eta / c = 1; the organizer also has to fork, join and answer.
Hardware:    2 CPU cores.
Time:        15 minutes.
Special:     0.3% of the demonstrations are longer than a row of the cold start, and are left out.
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
