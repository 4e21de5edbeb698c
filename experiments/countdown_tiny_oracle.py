"""The oracle of the tiny demo: a cold start that is shown every pair forked. On a real task nobody could show this.

Shows:       how near RL comes to a model that was shown how to organize, or how far it gets beyond.
Same as experiments/countdown_tiny.py but for: demonstrations that fork all six pairs as early as the pool allows, and
             join the oldest worker first. So everything is covered and overlapped. It is not the shortest path: the
             organizer searches nothing itself, and answers only when it has every result. No RL.
Command:     make baselines
Expect:      all four correct 94.5 ± 0.9% on a critical path of 144 ± 0.6 (seed 0, temperature 0.6).
Hardware:    2 CPU cores.
Time:        10 minutes.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    return dataclasses.replace(
        base,
        name="countdown_tiny_oracle",
        task=dataclasses.replace(base.task, demonstrations="oracle"),
        rl=dataclasses.replace(base.rl, iterations=0),
    )
