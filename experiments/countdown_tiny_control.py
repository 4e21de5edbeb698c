"""The control of the tiny demo: the cold start trained on for the time that RL would have taken, and no RL.

Shows:       that more imitation does not gain what RL gains.
Same as experiments/countdown_tiny.py but for: three quarters more steps of the cold start, which take the time of RL.
             The learning rate falls over all of them, the control's best chance. No RL.
Command:     make baselines
Expect:      all four correct 45.2 ± 2.0% on a critical path of 142 ± 2.7 (seed 0, temperature 0.6).
Hardware:    2 CPU cores.
Time:        14 minutes.
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
