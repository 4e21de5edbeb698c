"""The sequential baseline of the tiny demo: one trace, no forks, its own cold start and RL.

Reproduces:  the "Sequential" bars of the paper's Figure 5, in shape.
Same as experiments/countdown_tiny.py but for:
             - demonstrations that search 1 to 6 pairs one after the other, each under the same header and in the same
               words as a worker's search;
             - a window that holds all six searches: rows of twice the length, half the number of rows, and fewer steps
               and iterations, which take the same wall-clock;
             - no concurrency reward, which a single trace cannot earn (eta / c is 1/1 throughout);
             - a lower learning rate in RL, since RL trains every token of a search (at the async model's rate searches
               got worse), and advantages that are not divided by their standard deviation.
Command:     make baselines
Expect:      all four correct 76.4 ± 3.9% on a critical path of 191 ± 6.3 (three seeds, temperature 0.6): fewer than
             async, on a longer path. The paper: 70.5 against 89.0%.
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
        name="countdown_tiny_sequential",
        paradigm="sequential",
        rollout=dataclasses.replace(base.rollout, slots=64, context=480, worker_context=0, organizer_budget=464),
        sft=dataclasses.replace(base.sft, rows=4, row_length=512, steps=2000),
        rl=dataclasses.replace(
            base.rl,
            iterations=52,
            learning_rate=3e-4,
            std_normalise=False,
            row_length=480,
            rows=40,
            microbatches=10,
            concurrency_weight=0.0,
        ),
    )
