"""The engine of a model: a transformer, a tokenizer and the text around its queries, whatever they belong to."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from asyncthink_jax.config import RolloutConfig
from asyncthink_jax.data.tokenizer import Tokenizer, wire
from asyncthink_jax.model import transformer
from asyncthink_jax.model.cache import put_row, reads_enough, row_count
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.transformer import Params
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.prompts import Prompts
from asyncthink_jax.rollout.engine import Engine
from asyncthink_jax.rollout.sampling import Sampling
from asyncthink_jax.rollout.state import DecodingModel, Limits, Where


def make_engine(
    rollout: RolloutConfig,
    model: ModelConfig,
    grammar: Grammar,
    tokenizer: Tokenizer,
    prompts: Prompts,
    mesh: Mesh,
    whole_cache: bool = False,
) -> Engine:
    """The engine for a model, a tokenizer and the text around its queries, whatever they belong to.

    With `whole_cache` there is one program to compile and not two: for a few episodes that somebody waits for.

    Raises:
        ValueError: what they give can't be used, see `Engine`.
    """
    limits = Limits(
        slots=rollout.slots,
        context=rollout.context,
        organizer_budget=rollout.organizer_budget,
        worker_budget=rollout.worker_budget,
        feed_width=rollout.feed_width,
        worker_context=rollout.worker_context or None,
        worker_rows=rollout.worker_rows or None,
        prefill=rollout.prefill,
        wide_at=rollout.wide_at,
        min_workers=rollout.min_workers if grammar.capacity > 1 else 0,
    )
    return Engine(
        decoding_model(model, limits.rows_of_slot(grammar.capacity), limits.worker_context),
        wire(tokenizer, prompts, grammar, model.vocab_size),
        limits,
        mesh=mesh,
        sampling=Sampling(rollout.repetition_penalty, rollout.top_k, rollout.top_p, rollout.min_p),
        constrain=rollout.constrain,
        whole_cache=whole_cache or rollout.whole_cache or reads_enough(limits.context),
    )


def decoding_model(config: ModelConfig, rows_of_slot: int = 1, worker_length: int | None = None) -> DecodingModel:
    """The transformer as the engine wants it.

    With `worker_length`, organizers and workers have caches of their own, the workers' of that length: attention reads
    whole rows, and all but the first of a slot's (`Limits.rows_of_slot`) are workers'. (Measured: experiments/LOG.md.)
    """
    split = rows_of_slot > 1 and worker_length is not None

    def init_cache(rows: int, length: int) -> Any:
        if rows_of_slot == 1 or worker_length is None:
            return (transformer.init_cache(config, rows, length),)
        slots = rows // rows_of_slot
        return (
            transformer.init_cache(config, slots, length),
            transformer.init_cache(config, slots * (rows_of_slot - 1), worker_length),
        )

    def logits(
        params: Params, caches: Any, tokens: Array, positions: Array, last: Array, read_length: int, where: Where
    ) -> tuple[Array, Any]:
        hidden, caches = transformer.decode(
            config,
            params,
            caches,
            tokens,
            positions,
            groups=tokens.shape[0] // rows_of_slot,
            read_lengths=(read_length, None) if split else (read_length,),
        )
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return transformer.logits(config, params, hidden), caches

    def adopt(caches: Any, prompts: Any, entry: Array, slot: Array, slots: int) -> Any:
        organizers = caches[0]
        row = slot * (row_count(organizers) // slots)
        return (put_row(organizers, row, prompts, entry), *caches[1:])

    return DecodingModel(
        init_cache,
        logits,
        prepare=functools.partial(transformer.unstacked, config),
        prompt_cache=functools.partial(transformer.init_cache, config, kept_once=True),
        prefill=functools.partial(transformer.prefill, config),
        adopt=adopt,
    )


def multiply_in_full(model: ModelConfig) -> None:
    """Has JAX multiply what is fp32 in full, for a model in fp32; to be called before anything of it is traced.

    TPUs and GPUs take shorter products of fp32 numbers if nobody objects, and then the trainer's log-probabilities are
    not those that the engine recorded. It is a setting of JAX's and not an argument of our products because those of
    kernels and of their gradients have no such argument. Models in bfloat16 stay with what the chip does, and whoever
    sets JAX_DEFAULT_MATMUL_PRECISION has that.
    """
    if not os.environ.get("JAX_DEFAULT_MATMUL_PRECISION"):
        jax.config.update("jax_default_matmul_precision", "highest" if model.dtype == "float32" else None)
