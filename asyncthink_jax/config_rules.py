"""What a config's numbers may be, and what must fit what. A task has its own: `Task.ranges` and `Task.check`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from asyncthink_jax.sections import did_you_mean

INF = float("inf")
RANGES: list[tuple[str, float, float]] = [
    ("seed", 0, 2**31 - 1),
    ("mesh.cpu_devices", 1, INF),
    ("pool.agents", 1, INF),
    ("pool.max_forks", 1, INF),
    ("pool.parallel_traces", 1, INF),
    ("model.vocab_size", 0, INF),
    ("model.layers", 1, INF),
    ("model.width", 1, INF),
    ("model.heads", 1, INF),
    ("model.kv_heads", 1, INF),
    ("model.head_dim", 2, INF),
    ("model.mlp_width", 1, INF),
    ("model.lora.rank", 0, INF),
    ("model.lora.alpha", 0, INF),
    ("model.rope_theta", 1e-6, INF),  # powers of it are taken
    ("model.norm_eps", 1e-30, 1),  # a square root of it divides
    ("model.rope_scaling.factor", 1, INF),
    ("model.rope_scaling.low_frequency_factor", 0, INF),
    ("model.rope_scaling.high_frequency_factor", 0, INF),
    ("model.rope_scaling.original_context", 1, INF),
    ("rollout.slots", 1, INF),
    ("rollout.organizer_budget", 1, INF),
    ("rollout.worker_budget", 1, INF),
    ("rollout.context", 2, INF),
    ("rollout.worker_context", 0, INF),
    ("rollout.worker_rows", 0, INF),
    ("rollout.feed_width", 1, INF),
    ("rollout.wide_at", 0, INF),
    ("rollout.prefill", 0, INF),
    ("rollout.min_workers", 0, INF),
    ("rollout.repetition_penalty", 1, 100),  # infinity times a logit of 0 would be no number
    ("rollout.top_k", 0, INF),
    ("rollout.top_p", 1e-3, 1),
    ("rollout.min_p", 0, 1),
    *[
        (f"{stage}.{name}", low, high)
        for stage in ("sft", "rl")
        for name, low, high in [
            ("learning_rate", 0, INF),
            ("adam_learning_rate", 0, INF),
            ("warmup_steps", 0, INF),
            ("final_fraction", 0, 1),
            ("weight_decay", 0, INF),
            ("b1", 0, 0.999999),  # at 1 the moments would be divided by 0
            ("b2", 0, 0.999999),
            ("grad_clip", 1e-6, INF),
            ("skip_nonfinite", 0, INF),
            ("rows", 1, INF),
            ("row_length", 2, INF),
            ("microbatches", 1, INF),
            ("loss_chunk", 1, INF),
        ]
    ],
    ("sft.steps", 0, INF),
    ("rl.iterations", 0, INF),
    ("rl.prompts", 1, INF),
    ("rl.group_size", 2, INF),  # a group of one has no advantage
    ("rl.max_rollouts", 1, 1000),  # each has random numbers of its own up to here
    ("rl.temperature", 1e-3, INF),
    ("rl.optimizer_steps", 1, INF),
    ("rl.clip_low", 0, 1),
    ("rl.clip_high", 0, INF),
    ("rl.kl", 0, INF),
    ("rl.worker_weight", 0, INF),
    ("rl.imitated_demonstrations", 0, INF),
    ("rl.imitation_weight", 0, INF),
    ("rl.worker_keep", 0, 1),
    ("rl.format_penalty", -INF, 0),
    ("rl.concurrency_weight", 0, INF),
    ("rl.tau", 1e-3, 1),
    ("rl.all_correct_bonus", 0, INF),
    ("rl.wrong_penalty", 0, INF),
    ("eval.problems", 0, INF),
    ("eval.samples", 1, INF),
    ("eval.validate_every", 1, INF),
    ("eval.validation_problems", 1, INF),
    ("checkpoint.every_sft_steps", 1, INF),
    ("checkpoint.every_rl_iterations", 1, INF),
    ("checkpoint.keep", 1, INF),
]


def relations(config: Any) -> Iterator[tuple[bool, str]]:
    """(holds?, the line to print if it doesn't), for each that a `config.py:Config` has to keep."""
    model, rollout, sft, rl = config.model, config.rollout, config.sft, config.rl
    yield (
        model.heads % model.kv_heads == 0,
        f"model.heads ({model.heads}) must be a multiple of model.kv_heads ({model.kv_heads})",
    )
    yield model.head_dim % 2 == 0, f"model.head_dim ({model.head_dim}) must be even (rotary embedding)"
    scaling = model.rope_scaling
    yield (
        scaling.low_frequency_factor < scaling.high_frequency_factor,
        f"model.rope_scaling.low_frequency_factor ({scaling.low_frequency_factor}) must be below "
        f"high_frequency_factor ({scaling.high_frequency_factor})",
    )
    for path, value, choices in (
        ("model.dtype", model.dtype, ("float32", "bfloat16")),
        ("model.remat", model.remat, ("none", "full", "dots")),
    ):
        near = did_you_mean(value, choices)
        yield value in choices, f"config field {path!r}: {value!r} is not one of {', '.join(choices)}{near}"
    yield (
        model.lora.rank == 0 or bool(config.pretrained),
        "model.lora.rank > 0 needs `pretrained`: adapters are trained beside the weights of a model that is there",
    )
    for stage, section in (("sft", sft), ("rl", rl)):
        yield (
            model.lora.rank == 0 or section.optimizer == "adamw",
            f"{stage}.optimizer is {section.optimizer}, but adapters (model.lora.rank > 0) are trained by adamw",
        )
        yield (
            section.rows % section.microbatches == 0,
            f"{stage}.rows ({section.rows}) must be a multiple of {stage}.microbatches ({section.microbatches})",
        )
    yield (
        rl.iterations == 0 or rl.row_length >= rollout.context,
        f"rl.row_length ({rl.row_length}) must hold the longest trace, rollout.context ({rollout.context})",
    )
    yield (
        rl.prompts % rl.optimizer_steps == 0,
        f"rl.prompts ({rl.prompts}) must be a multiple of rl.optimizer_steps ({rl.optimizer_steps})",
    )
    yield (
        rl.imitated_demonstrations % rl.optimizer_steps == 0,
        f"rl.imitated_demonstrations ({rl.imitated_demonstrations}) must be a multiple of rl.optimizer_steps "
        f"({rl.optimizer_steps})",
    )
    yield bool(config.eval.temperatures), "eval.temperatures is empty; name at least one (0 = greedy)"
    yield (
        min(config.eval.temperatures, default=0) >= 0,
        f"eval.temperatures {config.eval.temperatures}: a temperature cannot be negative",
    )
    yield (
        rollout.worker_context <= rollout.context,
        f"rollout.worker_context ({rollout.worker_context}) is more than rollout.context ({rollout.context})",
    )
    yield (
        rollout.min_workers == 0 or rollout.constrain,
        f"rollout.min_workers ({rollout.min_workers}) needs rollout.constrain",
    )
    yield (
        rollout.min_workers <= config.pool.max_forks,
        f"rollout.min_workers ({rollout.min_workers}) is more than pool.max_forks ({config.pool.max_forks})",
    )
    sizes = dataclasses.asdict(config.mesh)
    for axis, size in sizes.items():
        yield size == -1 or size >= 1, f"mesh.{axis} is {size}, must be at least 1, or -1 for all devices that are left"
    yield list(sizes.values()).count(-1) <= 1, "mesh: only one axis can be -1"
