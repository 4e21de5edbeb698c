"""Multi-solution Countdown as in the paper, by Qwen3-4B: numbers of 1 to 99, c = 2, 400 test problems.

Reproduces:  the paper's MCD results: Figure 5 and the rows "MCD" of Table 3.
Task:        tasks/countdown_large.py; it says what of the paper's problems is known and what was chosen. 20,000
             training problems.
Command:     python -m asyncthink_jax.train --config experiments/countdown_mcd.py --workdir gs://BUCKET/countdown_mcd
             (on the slice, see launch/README.md)
             The baselines: --config.paradigm=sequential or parallel, each in a folder of its own. Without the
             concurrency reward: --config.rl.concurrency_weight=0; without cold start: --config.sft.steps=0.
             Sudoku without training on it, by this run and by the runs of the two baselines:
             python -m asyncthink_jax.evaluate --workdir gs://BUCKET/countdown_mcd --config.task.name=sudoku
             400 puzzles of 4x4 with 4 to 8 clues; the prompt describes Sudoku, not Countdown. How hard the paper's
             puzzles are is unknown.
Expect:      never run. The paper's async: all four correct 89.0%, at least three 96.8, two 98.8, one 99.5; eta / c
             64.7%. Not its latency of 4,525 tokens: the demonstrations here show a short search, not thoughts in prose.
             The paper's Sudoku: async 89.4% at a latency of 2,853 tokens, parallel 84.2 at 3,695, sequential 65.7 at
             2,056.
Hardware:    TPU v5e-64, as experiments/countdown_qwen3.py, of which this has all else.
Time:        never run. Estimated: 2 to 4 hours of a v5e-64. An iteration's 512 episodes, all in flight
             (--config.rollout.slots=512), take about 2,000 engine steps at 11 ms and four optimizer steps at 2.2 s, by
             the limits of the compiled programs (experiments/results/compiled/qwen3_4b_v5e_8x8.json, c = 4): half a
             minute at best, 200 times.
Special:     c = 2 is inferred: eta / c of one agent alone is 50.0% in Table 3. A worker's search has 20 to 120 words,
             and digits are tokens: up to 350 tokens.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, PoolConfig, experiment_file
from asyncthink_jax.tasks import LargeCountdown


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("countdown_qwen3.py"))
    return dataclasses.replace(
        base, name="countdown_mcd", task=LargeCountdown(enough=0.3), pool=PoolConfig(agents=2, max_forks=6)
    )
