"""The formulas against what XLA counts in programs without loops, in which its count is right."""

import dataclasses

import jax
import numpy as np
import pytest

from asyncthink_jax.audit.step_costs import Costs
from asyncthink_jax.config import SFTConfig
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.training import sft

MODEL = ModelConfig(vocab_size=512, layers=2, width=128, heads=8, kv_heads=4, head_dim=16, mlp_width=384)
ROWS, LENGTH = 4, 128
BATCH = dict.fromkeys(("tokens", "positions", "segment_ids"), np.zeros((ROWS, LENGTH), np.int32))
BATCH["loss_weights"] = np.zeros((ROWS, LENGTH), np.float32)


def counted(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def params():
    return transformer.abstract_params(MODEL)


def test_the_flops_of_a_training_step_are_those_that_are_counted():
    loss = sft.make_loss(MODEL, SFTConfig(loss_chunk=ROWS * LENGTH))
    found = counted(jax.value_and_grad(loss, has_aux=True), params(), BATCH)
    cost = Costs(MODEL, 1, 1, 1).train_step(ROWS, LENGTH, microbatches=1)
    # Attention here computes the half of the scores that is masked as well: as much again as the formula has.
    masked = 3 * 4 * ROWS * LENGTH * LENGTH / 2 * MODEL.heads * MODEL.head_dim * MODEL.layers
    assert cost.flops + masked == pytest.approx(found, rel=0.1)


def test_the_flops_of_a_decoding_step_are_those_that_are_counted():
    rows, cached = 8, 96

    def step(params, cache, tokens, positions):
        hidden, cache = transformer.decode(MODEL, params, (cache,), tokens, positions)
        return transformer.logits(MODEL, params, hidden), cache

    cache = jax.eval_shape(lambda: transformer.init_cache(MODEL, rows, cached, kept_once=True))
    tokens = np.zeros((rows, 1), np.int32)
    assert Costs(MODEL, 1, 1, 1).decode_step(rows, cached).flops == pytest.approx(
        counted(step, params(), cache, tokens, tokens), rel=0.1
    )


def test_a_decoding_step_reads_the_weights_once_and_the_cache_once():
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    cache = jax.eval_shape(lambda: transformer.init_cache(MODEL, 8, 96, kept_once=True))
    assert Costs(MODEL, 1, 1, 1).decode_step(8, 96).bytes == pytest.approx(size(params()) + size(cache), rel=0.01)


def test_work_is_split_over_all_chips_and_rows_over_data_and_fsdp_alone():
    alone, split = Costs(MODEL, 1, 1, 1), Costs(MODEL, 2, 2, 4)
    assert split.train_step(16, 128, 1).flops == alone.train_step(16, 128, 1).flops / 16
    assert split.decode_step(16, 96).flops == alone.decode_step(16, 96).flops / 16
    weights = alone.decode_step(0, 0).bytes
    assert split.decode_step(0, 0).bytes == weights / 4
    assert split.logprobs(16, 128, 1).flops == alone.logprobs(16, 128, 1).flops / 16


def test_full_recomputation_costs_one_more_pass_through_the_layers():
    full = Costs(dataclasses.replace(MODEL, remat="full"), 1, 1, 1)
    extra = full.train_step(4, 128, 1).flops - Costs(MODEL, 1, 1, 1).train_step(4, 128, 1).flops
    forward = 2 * ROWS * LENGTH * full.layers + 4 * ROWS * LENGTH * LENGTH / 2 * 8 * 16 * 2
    assert extra == pytest.approx(forward)


def test_frozen_weights_have_no_gradient_products():
    frozen, trained = Costs(MODEL, 1, 1, 1, trained=0.0), Costs(MODEL, 1, 1, 1)
    difference = trained.train_step(4, 128, 1).flops - frozen.train_step(4, 128, 1).flops
    assert difference == pytest.approx(2 * ROWS * LENGTH * (trained.layers + trained.output))
