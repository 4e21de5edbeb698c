"""Packing: every token of every trace once, in order, traces never mixed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncthink_jax.data.packing import pack

PAD = 7


def trace(i, n):
    tokens = 1000 * (i + 1) + np.arange(n, dtype=np.int32)
    return {"tokens": tokens, "loss_weights": np.ones(n, np.float32), "logprobs": -0.5 * tokens.astype(np.float32)}


def segments(batch):
    """The tokens of each segment, and of each other channel at the same places."""
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segment_ids"][row].max(initial=0) + 1):
            where = batch["segment_ids"][row] == segment
            yield {name: values[row][where] for name, values in batch.items()}


@given(st.lists(st.integers(1, 20), max_size=40), st.none() | st.integers(1, 6))
def test_every_trace_is_in_one_segment_whole_or_left_over(lengths, rows):
    batch, left = pack([trace(i, n) for i, n in enumerate(lengths)], 20, rows, PAD)
    found = {}
    for segment in segments(batch):
        i = segment["tokens"][0] // 1000 - 1
        assert i not in found
        found[i] = segment
        np.testing.assert_array_equal(segment["tokens"], trace(i, lengths[i])["tokens"])
        np.testing.assert_array_equal(segment["positions"], np.arange(lengths[i]))
        if "logprobs" in segment:
            np.testing.assert_array_equal(segment["logprobs"], trace(i, lengths[i])["logprobs"])
    assert sorted([*found, *left]) == list(range(len(lengths)))
    assert rows is not None or not left
    # What is left over has no room anywhere.
    room = (batch["segment_ids"] == 0).sum(axis=1)
    assert all(lengths[i] > room.max() for i in left)


def test_the_longest_go_first_so_that_less_is_left_over():
    batch, left = pack([trace(i, n) for i, n in enumerate([3, 3, 5, 5])], 8, 2)
    assert not left and batch["segment_ids"].all()


def test_padding_has_segment_zero_the_pad_token_and_no_weight():
    batch, _ = pack([trace(0, 3), trace(1, 4)], 10, 2, PAD)
    padding = batch["segment_ids"] == 0
    assert padding.sum() == 13
    assert (batch["tokens"][padding] == PAD).all()
    assert not batch["loss_weights"][padding].any() and not batch["positions"][padding].any()


def test_channels_keep_their_type():
    batch, _ = pack([trace(0, 3)], 10, 2)
    assert {name: values.dtype.name for name, values in batch.items()} == {
        "tokens": "int32",
        "loss_weights": "float32",
        "logprobs": "float32",
        "positions": "int32",
        "segment_ids": "int32",
    }


def test_a_trace_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="trace 1 has 11 tokens, a row has room for 10"):
        pack([trace(0, 3), trace(1, 11)], 10)


def test_a_channel_of_another_length_is_refused():
    with pytest.raises(ValueError, match="trace 0: 3 tokens, but 1 values of loss_weights"):
        pack([{"tokens": np.arange(3), "loss_weights": np.ones(1)}], 10)
