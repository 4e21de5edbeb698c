"""Multi-solution Countdown from random weights on a laptop."""

from asyncthink_jax.config import CheckpointConfig, Config, EvalConfig, RLConfig, RolloutConfig, SFTConfig
from asyncthink_jax.model.transformer import ModelConfig


def get_config() -> Config:
    return Config(
        name="countdown_tiny",
        model=ModelConfig(vocab_size=0, layers=3, width=128, heads=4, kv_heads=2, head_dim=32, mlp_width=384),
        rollout=RolloutConfig(slots=64, organizer_budget=240, worker_budget=112, context=256),
        sft=SFTConfig(),
        rl=RLConfig(),
        eval=EvalConfig(),
        checkpoint=CheckpointConfig(),
    )
