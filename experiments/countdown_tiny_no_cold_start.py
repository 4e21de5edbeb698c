"""The ablation of the tiny demo without a cold start in the protocol (paper, Table 3): RL alone has to find forks.

Reproduces:  the row "no cold start", in shape.
Command:     make reproduce-tiny
             = python -m asyncthink_jax.train --config experiments/countdown_tiny_no_cold_start.py
             --workdir runs/countdown_tiny_async_without_cold_start --cold_start runs/countdown_tiny_sequential
Expect:      all four correct 75.6 ± 2.5% on a critical path of 192 ± 6.7 with eta / c 0.25 ± 0.00 (three seeds,
             temperature 0.6). No fork is ever drawn, so none is ever rewarded. So eta / c stays at 1/c, as in the paper
             (50.0% with c = 2, 25.0% with c = 4). The paper's accuracy is far below the full method's (MCD 64.8 against
             89.0%).
Hardware:    2 CPU cores.
Time:        8 minutes, after the sequential run whose cold start it takes.
Special:     The paper starts from Qwen3-4B, which knows the task but not the protocol. A model from random weights
             knows neither. Here the cold start of the sequential baseline takes that place: it searches pairs and
             answers, has the tags in its vocabulary, and has never seen a Fork, a Join or a Return. Lengths and
             learning rate are that run's; reward and pool are those of experiments/countdown_tiny.py. No demonstrations
             beside RL: their workers' part would show the protocol.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    demo = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    sequential = experiment_file(Path(__file__).with_name("countdown_tiny_sequential.py"))
    return dataclasses.replace(
        sequential,
        name="countdown_tiny_no_cold_start",
        paradigm="async",
        # One short row for the three workers: it is idle as long as nobody forks.
        rollout=dataclasses.replace(sequential.rollout, worker_context=demo.rollout.worker_context, worker_rows=1),
        rl=dataclasses.replace(sequential.rl, concurrency_weight=demo.rl.concurrency_weight, imitated_demonstrations=0),
    )
