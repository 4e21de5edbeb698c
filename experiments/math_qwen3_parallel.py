"""The parallel baseline of the paper's table of mathematics: four independent traces and a majority vote.

Reproduces:  the rows "Parallel-L2K" and "Parallel-L1K".
Same as experiments/math_qwen3_sequential.py but for: `pool.parallel_traces` traces an episode when it is
             scored, the number of agents that async has. Equal answers count together in any spelling; of a tie the
             first wins. Each trace is trained by its own reward. So with the same seed the training is that of the
             sequential run, and its checkpoints can be scored this way too:
             python -m asyncthink_jax.evaluate --workdir gs://BUCKET/math_qwen3_sequential_2k --samples 16
             --paradigm parallel
Command:     L2K: python -m asyncthink_jax.train --config experiments/math_qwen3_parallel.py
             --workdir gs://BUCKET/math_qwen3_parallel_2k
             L1K: the same in another folder with --config.rollout.organizer_budget=1024
Expect:      never run. The paper: L2K 38.7% on AIME-24 at 2,048 tokens, 72.8% on AMC-23 at 2,031; L1K 24.7% at 1,024,
             61.9% at 1,030.
Hardware:    as there.
Time:        never run. The evaluation takes four times as long as there.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("math_qwen3_sequential.py"))
    return dataclasses.replace(base, name="math_qwen3_parallel", paradigm="parallel")
