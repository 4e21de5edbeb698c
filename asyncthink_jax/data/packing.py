"""Packing: traces of different lengths side by side in rows of one length, for both training stages.

A packed batch has, per token: `tokens`, `positions` (from 0 within its trace), `segment_ids` (1, 2, .. within a row,
0 = padding), and any other channel that the traces carry. A channel speaks of its own token: `loss_weights[b, l]`
weights the prediction of `tokens[b, l]` (made from the token before it), and an old log-probability stands where its
token stands. The first token of a trace is predicted from nothing: its weight has to be 0 (it belongs to a prompt).
"""

from collections.abc import Mapping, Sequence

import numpy as np

Trace = Mapping[str, np.ndarray]  # "tokens": int32[n], and other channels, each [n]


def pack(
    traces: Sequence[Trace], row_length: int, rows: int | None = None, pad_id: int = 0
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Puts traces into rows, the longest first, each into the first row that has room (first-fit decreasing).

    Args:
      traces: each a mapping with "tokens" int32[n] and the same further channels, each [n] (n up to `row_length`).
      row_length: L, tokens in a row.
      rows: B; None = as many as it takes.
      pad_id: what stands in `tokens` where there is no token; other channels have 0 there.

    Returns:
      The batch, a dict of arrays [B, L]: the channels, `positions` and `segment_ids`. And the indices of the traces for
      which there was no room, in ascending order.

    Raises:
      ValueError: a trace is longer than a row, or a channel is not as long as the tokens.
    """
    placed, left, used = _first_fit([len(trace["tokens"]) for trace in traces], row_length, rows)
    shape = (len(used) if rows is None else rows, row_length)
    channels = {name: np.asarray(values).dtype for name, values in traces[0].items()} if traces else {}
    batch = {name: np.zeros(shape, dtype) for name, dtype in {"tokens": np.dtype(np.int32), **channels}.items()}
    batch["tokens"][:] = pad_id
    batch["positions"] = np.zeros(shape, np.int32)
    batch["segment_ids"] = np.zeros(shape, np.int32)
    counter = np.arange(row_length, dtype=np.int32)
    for i, row, start in placed:
        n = len(traces[i]["tokens"])
        place = (row, slice(start, start + n))
        for name in channels:
            if len(traces[i][name]) != n:
                raise ValueError(f"trace {i}: {n} tokens, but {len(traces[i][name])} values of {name}")
            batch[name][place] = traces[i][name]
        batch["positions"][place] = counter[:n]
        batch["segment_ids"][place] = batch["segment_ids"][row, start - 1] + 1 if start else 1
    return batch, sorted(left)


def _first_fit(lengths: Sequence[int], row_length: int, rows: int | None):
    """[(trace, row, start)], the traces left over, and the tokens used in each row."""
    used: list[int] = [0] * (rows or 0)
    placed, left = [], []
    first_free = 0  # rows before this one are full
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > row_length:
            raise ValueError(f"trace {i} has {lengths[i]} tokens, a row has room for {row_length}")
        while first_free < len(used) and used[first_free] == row_length:
            first_free += 1
        row = next((row for row in range(first_free, len(used)) if used[row] + lengths[i] <= row_length), len(used))
        if row == len(used):
            if rows is not None:
                left.append(i)
                continue
            used.append(0)
        placed.append((i, row, used[row]))
        used[row] += lengths[i]
    return placed, left, used
