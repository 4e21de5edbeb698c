"""MMLU-Pro by Qwen3-4B, scored and not trained: it knows the protocol from its prompt alone, or from another run.

Reproduces:  the setting of the paper's case studies (Figures 8 to 11: graph theory and genetics). It draws such
             episodes and writes them down.
Data:        TIGER-Lab/MMLU-Pro by its name on the hub (pip install 'datasets>=4'). Its test split has 12,032 questions;
             1,200 of them are asked here. Files work as well: --config.task.test=mmlu_pro_test.parquet, and likewise
             task.validation. Genetics: --config.task.src=stemez-Genetics --config.task.test_problems=0; graph theory is
             among --config.task.src=theoremQA-Math.
Command:     python -m asyncthink_jax.train --config experiments/mmlu_pro_qwen3.py --workdir gs://BUCKET/mmlu_pro_qwen3
             A model that was trained on mathematics, asked for this instead:
             python -m asyncthink_jax.evaluate --workdir gs://BUCKET/math_qwen3 --config.task.name=mmlu_pro
             --config.task.test_problems=1200
Expect:      no number: never run, and the paper has no accuracy for its case studies.
Hardware:    TPU v5e-64 as experiments/math_qwen3.py, of which this has the sizes; or one chip with 80 GB and
             --config.mesh.tensor=1 --config.rollout.slots=32.
Time:        never run. Estimated: 10 minutes of a v5e-64: five waves of 256 episodes, 2,048 steps at 10 ms each, and
             the compilation.
Special:     Accuracy is by category too. There is no training split, so neither cold start nor RL.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, DataConfig, EvalConfig, experiment_file
from asyncthink_jax.tasks import MMLUPro


def get_config() -> Config:
    base = experiment_file(Path(__file__).with_name("math_qwen3.py"))
    return dataclasses.replace(
        base,
        name="mmlu_pro_qwen3",
        task=MMLUPro(test_problems=1200),
        data=DataConfig(),
        sft=dataclasses.replace(base.sft, steps=0),
        rl=dataclasses.replace(base.rl, iterations=0),
        eval=EvalConfig(temperatures=(1.0, 0.0)),
    )
