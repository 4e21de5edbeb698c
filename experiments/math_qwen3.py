"""Mathematics by Qwen3-4B as in the paper: c = 4, workers of 512 tokens, trained on DeepScaleR.

Reproduces:  the row "AsyncThink" of the paper's table of mathematics, and the AMC-23 columns of its ablation.
Data:        DeepScaleR (40,315 problems, of which 200 are held out for validation), AIME-24 (30) and AMC-23 (40), by
             their names on the hub (pip install 'datasets>=4'). Files work as well, with any names of their columns:
             --config.task.train=deepscaler.json --config.task.test=aime24.jsonl,amc23.jsonl
             math-verify grades answers: pip install 'asyncthink_jax[math]'
             Scores are avg@16, over both test sets and of each. The paper does not say how many samples it takes.
Cold start:  no program can demonstrate this. Another model writes the demonstrations (python -m
             asyncthink_jax.synthesize), here expected in demonstrations/math.jsonl. --config.data.demonstrations names
             another file; --config.sft.steps=0 does without.
Command:     python -m asyncthink_jax.train --config experiments/math_qwen3.py --workdir gs://BUCKET/math_qwen3
             (on the slice, see launch/README.md)
             Without the concurrency reward: --config.rl.concurrency_weight=0; without cold start:
             --config.sft.steps=0; without RL: --config.rl.iterations=0.
             The baselines: experiments/math_qwen3_sequential.py and experiments/math_qwen3_parallel.py.
Expect:      never run. The paper: AIME-24 38.7% at a critical path of 1,468 tokens, AMC-23 73.3% at 1,459.5 with eta /
             c 44.8%. Without the concurrency reward AMC-23 71.3% at 1,933.3, eta / c 26.1%.
Hardware:    TPU v5e-64, as experiments/countdown_qwen3.py, of which this has all else.
Time:        never run. Estimated: 5 to 6 hours of a v5e-64. An iteration has 512 episodes of about 1,500 steps on the
             critical path and 2,500 decoded tokens. Two waves of 256 take 4,000 to 5,000 engine steps at 10 ms (weights
             and cache read once a step). 3 million tokens of training, prompts included, take half a minute at 40% of
             the chips' FLOP/s. Together 75 to 90 s, 200 times. The test of 70 problems, 16 samples each, counts twice
             that.
Special:     Rows have 4,096 tokens, since questions and joined text are longer than Countdown's. Training questions of
             more than 2,000 characters are left out. What the paper leaves open is as in countdown_qwen3.py.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, DataConfig, EvalConfig, experiment_file
from asyncthink_jax.tasks import Math


def get_config() -> Config:
    """2,048 tokens an organizer: the budget of the paper's baselines "L2K"."""
    base = experiment_file(Path(__file__).with_name("countdown_qwen3.py"))
    return dataclasses.replace(
        base,
        name="math_qwen3",
        task=Math(),
        data=DataConfig(demonstrations="demonstrations/math.jsonl"),
        rollout=dataclasses.replace(base.rollout, context=4096, worker_context=1536),
        sft=dataclasses.replace(base.sft, row_length=4096),
        rl=dataclasses.replace(base.rl, row_length=4096),
        eval=EvalConfig(samples=16, temperatures=(1.0,), validate_every=10, validation_problems=200),
    )
