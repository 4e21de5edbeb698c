"""Multi-solution Countdown by Qwen3-4B at the paper's sizes, on a TPU slice: cold start, then RL.

Reproduces:  the setting of the paper's main results (Qwen3-4B; c = 4, 2,048 tokens an organizer, 512 a worker, as in
             its math tasks), on the demo's small problems (tasks/countdown.py). countdown_mcd.py has the paper's
             problems.
Command:     launch/tpu_vm.sh, see launch/README.md; on the slice it runs
             python -m asyncthink_jax.train --config experiments/countdown_qwen3.py --workdir
             gs://BUCKET/countdown_qwen3
             Another size: --config.pretrained=Qwen/Qwen3-0.6B and its sizes (asyncthink_jax/model/presets.py).
Expect:      no number: never run, and the paper has none for these problems. Every step compiles and fits:
             python -m asyncthink_jax.compile --config experiments/countdown_qwen3.py --topology v5e:8x8
             (with --config.rollout.slots=512, as in the table of docs/tpu_pods.md, a rollout of 512 episodes needs one
             pass)
Hardware:    TPU v5e-64, v6e-16 or v5p-16 (8 chips). docs/tpu_pods.md has the slices for other sizes.
Time:        never run.
Special:     What the paper leaves open is as in comparable work with models of this size: AdamW at 1e-6, clip 0.2 and
             0.28, no KL term, temperature 1, no division by the group's deviation.
"""

import dataclasses

from asyncthink_jax.config import (
    CheckpointConfig,
    Config,
    EvalConfig,
    MeshConfig,
    PoolConfig,
    RLConfig,
    RolloutConfig,
    SFTConfig,
)
from asyncthink_jax.model.presets import PRESETS
from asyncthink_jax.tasks import Countdown


def get_config() -> Config:
    """64 prompts, 8 episodes each, in four optimizer steps an iteration; tensor = 4 on any slice."""
    return Config(
        name="countdown_qwen3",
        pretrained="Qwen/Qwen3-4B",
        task=Countdown(enough=0.3),
        pool=PoolConfig(agents=4, max_forks=6),
        model=dataclasses.replace(PRESETS["Qwen3-4B"], dtype="bfloat16", remat="full"),
        mesh=MeshConfig(data=1, fsdp=-1, tensor=4),
        rollout=RolloutConfig(
            slots=256,
            organizer_budget=2048,
            worker_budget=512,
            context=3072,
            worker_context=1024,
            feed_width=32,
            wide_at=4,
            prefill=64,
        ),
        sft=SFTConfig(
            steps=400,
            optimizer="adamw",
            learning_rate=1e-5,
            warmup_steps=20,
            number_init=False,
            rows=64,
            row_length=3072,
            microbatches=4,
        ),
        rl=RLConfig(
            iterations=200,
            prompts=64,
            group_size=8,
            temperature=1.0,
            learning_rate=1e-6,
            warmup_steps=10,
            final_fraction=1.0,
            optimizer_steps=4,
            rows=256,
            row_length=3072,
            microbatches=16,
        ),
        eval=EvalConfig(temperatures=(1.0, 0.0), validate_every=10, validation_problems=200),
        checkpoint=CheckpointConfig(every_sft_steps=20, every_rl_iterations=2),
    )
