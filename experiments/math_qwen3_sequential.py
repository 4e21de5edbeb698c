"""The sequential baseline of the paper's table of mathematics: one trace of at most 2,048 tokens, or 1,024.

Reproduces:  the rows "Sequential-L2K" and "Sequential-L1K".
Same as experiments/math_qwen3.py but for: no workers; no cold start, which would show a protocol that is not used here;
             no concurrency reward, which a single trace cannot earn (eta / c is 1/1 throughout).
Command:     L2K: python -m asyncthink_jax.train --config experiments/math_qwen3_sequential.py
             --workdir gs://BUCKET/math_qwen3_sequential_2k
             L1K: the same in another folder with --config.rollout.organizer_budget=1024
Expect:      never run. The paper: L2K 35.3% on AIME-24 at 2,048 tokens, 67.0% on AMC-23 at 2,001; L1K 24.7% at 1,023,
             59.5% at 990.
Hardware:    as there.
Time:        never run. Estimated to take the time of math_qwen3.py: traces are longer, but fewer.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, DataConfig, experiment_file


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("math_qwen3.py"))
    return dataclasses.replace(
        base,
        name="math_qwen3_sequential",
        paradigm="sequential",
        data=DataConfig(),
        rollout=dataclasses.replace(base.rollout, worker_context=0),
        sft=dataclasses.replace(base.sft, steps=0),
        rl=dataclasses.replace(base.rl, concurrency_weight=0.0),
    )
