"""The oracle of the tiny demo: a cold start that is shown every pair forked, which on a real task nobody could show.

Shows:       how near RL comes to a model that was shown how to organize, or how far it gets beyond.
Same as experiments/countdown_tiny.py but for: demonstrations that fork all six pairs as early as the pool allows and
             join the oldest worker first, so that everything is covered and overlapped; no RL. It is not the shortest
             path: the organizer searches nothing itself, and answers when all is there.
Hardware:    2 CPU cores.
Time:        10 minutes.
Command:     make baselines
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
