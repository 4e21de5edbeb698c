"""Multi-solution Countdown, from random weights to a model that organizes its own search, on a laptop.

Reproduces:  the shape of the paper's MCD results (Figures 5 and 6, first rows of Table 3), with a model of 0.66 million
             parameters. After the cold start the model speaks the protocol but organizes at random. RL teaches it to
             cover the search, to overlap it, to search a pair itself while its workers run, and to answer early.
Task:        four distinct numbers from 2 to 20, a target of at most 99, four distinct solutions; pool c = 4; 600 test
             problems. Train, validation and test share no set of numbers (tasks/countdown.py).
Command:     make train
             = python -m asyncthink_jax.train --config experiments/countdown_tiny.py --workdir runs/countdown_tiny
Expect:      all four correct 36.3 ± 2.4% after the cold start and 84.1 ± 1.2% after RL, on a critical path of 120 ± 0.0
             with eta / c 0.57 ± 0.00 (three seeds, temperature 0.6). The paper: 0.0% before RL, 89.0% after.
Hardware:    2 CPU cores.
Time:        15 minutes (docs/results.md has the exact time; aim: 8 minutes, bar: 12).
Special:     - Number embeddings start as Fourier features of the number and its logarithm (`sft.number_init`).
             - Muon trains the matrices in the cold start.
             - The reward differs from the paper's: the concurrency reward is multiplied by the accuracy, an answer with
               all solutions earns a bonus, and the share of wrong expressions in the answer is subtracted.
             - Each RL iteration also imitates 32 fresh demonstrations, but only their work: searches, tallies and
               answers, nothing that organizes.
             - In the committed results a format error earned -1. Here it earns -3, the same as an answer that is all
               wrong.
Chosen on:   the validation split; experiments/LOG.md says what was tried.
"""

from asyncthink_jax.config import (
    CheckpointConfig,
    Config,
    EvalConfig,
    MeshConfig,
    RLConfig,
    RolloutConfig,
    SFTConfig,
)
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.tasks import Countdown


def get_config() -> Config:
    """The async model; the other experiments of the table change a field or two of it."""
    return Config(
        name="countdown_tiny",
        model=ModelConfig(
            vocab_size=0, layers=3, width=128, heads=4, kv_heads=4, head_dim=32, mlp_width=384, rope_theta=100.0
        ),
        task=Countdown(
            in_order=0.9,
            self_search=0.05,
            enough=0.5,
            few_share=0.1,
            hit_weight=3.0,
            answer_weight=1.5,
            worker_keep=0.75,
        ),
        mesh=MeshConfig(cpu_devices=2),
        rollout=RolloutConfig(
            slots=24,
            organizer_budget=200,
            worker_budget=112,
            context=224,
            worker_context=120,
            worker_rows=2,
            feed_width=1,
            whole_cache=True,
        ),
        sft=SFTConfig(
            steps=4300,
            rows=6,
            row_length=192,
            optimizer="muon",
            learning_rate=0.05,
            adam_learning_rate=0.01,
            warmup_steps=20,
            final_fraction=0.02,
            loss_chunk=2048,
        ),
        rl=RLConfig(
            iterations=64,
            prompts=16,
            group_size=8,
            temperature=0.6,
            optimizer="adamw",
            learning_rate=6e-4,
            final_fraction=0.1,
            std_normalise=True,
            optimizer_steps=4,
            rows=64,
            row_length=256,
            microbatches=16,
            loss_chunk=2048,
            worker_weight=0.1,
            worker_keep=0.15,
            imitated_demonstrations=32,
            concurrency_weight=6.0,
            concurrency_times_accuracy=True,
            tau=0.8,
            all_correct_bonus=1.0,
            wrong_penalty=3.0,
            format_penalty=-3.0,  # as an answer that is all wrong: no format error is a way out of one
        ),
        eval=EvalConfig(
            problems=0, samples=1, temperatures=(0.6, 1.0, 0.0), validate_every=32, validation_problems=200
        ),
        checkpoint=CheckpointConfig(every_sft_steps=200, every_rl_iterations=2, keep=2),
    )
