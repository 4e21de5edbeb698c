"""Replay: the trainer's forward pass gives the log-probabilities that the sampler has recorded."""

import jax
import numpy as np
import pytest
from organizing import CONFIG, engine, episodes, organizing_params, run

from asyncthink_jax.data import packing
from asyncthink_jax.training.logprobs import token_logprobs

EPISODES = tuple(range(64))
trainers_logprobs = jax.jit(token_logprobs, static_argnums=0)


def replayed(traces, temperature, change=lambda tokens, trace: tokens):
    """The trainer's log-probability of each token of each trace, from packed rows; 0 stands for the prompt's."""
    rows = [
        {
            "tokens": change(np.concatenate([trace.prompt, trace.tokens]), trace),
            "trace": np.full(len(trace.prompt) + len(trace.tokens), n, np.int32),
        }
        for n, trace in enumerate(traces)
    ]
    batch, left_out = packing.pack(rows, row_length=128, rows=48)
    assert not left_out
    logprobs, _ = trainers_logprobs(
        CONFIG, organizing_params(), batch["tokens"], batch["positions"], batch["segment_ids"], temperature
    )
    logprobs, real = np.asarray(logprobs), batch["segment_ids"] > 0
    return [logprobs[real & (batch["trace"] == n)][len(trace.prompt) :] for n, trace in enumerate(traces)]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_the_trainer_gives_the_log_probabilities_that_the_sampler_recorded(temperature):
    assert_replayed(engine(), temperature)


@pytest.mark.slow
@pytest.mark.parametrize("agents", [1, 8])
def test_it_gives_them_for_other_pools_too(agents):
    assert_replayed(engine(agents=agents), 1.0)


def assert_replayed(engine, temperature):
    played = episodes(run(engine, EPISODES, temperature))
    traces = [trace for episode in played for trace in episode.traces]
    after_join = 0
    for trace, logprobs in zip(traces, replayed(traces, temperature or 1.0), strict=True):
        np.testing.assert_allclose(logprobs[trace.sampled], trace.logprobs[trace.sampled], atol=1e-4)
        assert not trace.logprobs[~trace.sampled].any()
        after_join += np.count_nonzero(trace.sampled & np.maximum.accumulate(~trace.sampled))
    if engine.agents > 1:
        assert sum(trace.role == "worker" for trace in traces) >= 20
        assert after_join >= 10


def test_other_joined_text_or_another_sub_query_would_give_other_log_probabilities():
    played = episodes(run(engine(), EPISODES))
    organizers = [episode.traces[0] for episode in played]
    joined = [
        t for t in organizers if not t.sampled.all() and t.sampled[-1] and np.argmin(t.sampled) < len(t.tokens) - 1
    ]
    workers = [trace for episode in played for trace in episode.traces[1:] if trace.decoded_tokens]

    def one_joined_token(tokens, trace):
        return np.where(np.arange(len(tokens)) == len(trace.prompt) + np.argmin(trace.sampled), tokens + 1, tokens)

    def one_token_of_the_sub_query(tokens, trace):
        return np.where(np.arange(len(tokens)) == len(trace.prompt) - 2, tokens + 1, tokens)

    for traces, change in ((joined, one_joined_token), (workers, one_token_of_the_sub_query)):
        assert len(traces) > 5
        for trace, logprobs in zip(traces, replayed(traces, 1.0, change), strict=True):
            assert np.max(np.abs(logprobs - trace.logprobs)[trace.sampled]) > 1e-3
