"""The parallel baseline of the paper's table of mathematics: four independent traces and a majority vote.

Reproduces:  the rows "Parallel-L2K" and "Parallel-L1K".
Expected:    the paper's: L2K 38.7% on AIME-24 at 2,048 tokens, 72.8% on AMC-23 at 2,031; L1K 24.7% at 1,024, 61.9% at
             1,030.
Same as experiments/math_qwen3_sequential.py but for: `pool.parallel_traces` traces an episode when it is scored, as
             many as async has agents; equal answers count together however they are spelled, and of equally many the
             first wins. Each trace is trained by its own reward, so that with the same seed the training is that of
             the sequential run, whose checkpoints can be scored so too:
             python -m asyncthink_jax.evaluate --workdir gs://BUCKET/math_qwen3_sequential_2k --samples 16
             --paradigm parallel
Hardware:    as there. Never run; the evaluation takes four times as long.
Command:     L2K: python -m asyncthink_jax.train --config experiments/math_qwen3_parallel.py
             --workdir gs://BUCKET/math_qwen3_parallel_2k
             L1K: the same in another folder with --config.rollout.organizer_budget=1024
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("math_qwen3_sequential.py"))
    return dataclasses.replace(base, name="math_qwen3_parallel", paradigm="parallel")
