"""The control of the tiny demo: the cold start trained on for the time that RL would have taken, and no RL.

Shows:       that what RL gains is not what more imitation would have gained.
Same as experiments/countdown_tiny.py but for: three quarters of the steps of the cold start again, which take the time
             of RL (the learning rate falls over all of them, which is the control's best chance), no RL.
Hardware:    2 CPU cores.
Time:        14 minutes.
Command:     make baselines
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    return dataclasses.replace(
        base,
        name="countdown_tiny_control",
        sft=dataclasses.replace(base.sft, steps=base.sft.steps * 7 // 4),
        rl=dataclasses.replace(base.rl, iterations=0),
    )
