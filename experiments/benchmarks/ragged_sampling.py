"""Rows of very different lengths, all waited for: ours reuses slots, tunix goes batch by batch.

128 rows, a prompt of 32 tokens, geometric lengths with mean 64, at most 256. Ours: a row that ends hands its slot to
the next prompt, which is prefilled alone. tunix: batches in the order of the rows, each as long as its longest row.
Both sides run with several numbers of rows in flight. Each side's best counts; the others are in `detail`.

Both sides force the lengths inside the model: the end-of-text token can't be chosen before a row's last position, and
is the only choice there.
"""

import numpy as np

from asyncthink_jax.rollout.state import Limits
from experiments.benchmarks import peer
from experiments.benchmarks.common import arguments, in_turn, median, report, timed
from experiments.benchmarks.ours import Ours, ending_after


def main() -> None:
    flags = arguments(__doc__, rounds=3)
    count, prompt, mean, cap = (16, 8, 8, 32) if flags.quick else (128, 32, 64, 256)
    in_flight = (4, 8) if flags.quick else (16, 32, 64, 128)
    lengths = np.clip(np.random.default_rng(0).geometric(1 / mean, count), 1, cap).tolist()
    peers = peer.start(["tunix_sampler"], flags)
    sides, steps = {}, {}
    for rows in in_flight:
        ours = Ours(flags.model, Limits(rows, prompt + cap, cap, 0, prefill=prompt))
        run = lambda ours=ours: ours.run(ours.prompts([prompt] * count), ending_after(lengths))  # noqa: E731
        rollout = run()
        assert rollout.record["decoded"][:, 0].tolist() == lengths
        steps[f"ours, {rows} in flight"] = rollout.engine_steps
        sides[f"ours, {rows} in flight"] = lambda run=run: timed(run)
        work = {"prompt": prompt, "lengths": lengths, "cap": cap, "rows": rows}
        for name, one in peers.items():
            sides[f"{name}, {rows} in flight"] = lambda one=one, work=work: one.time(work)
            steps[f"{name}, {rows} in flight"] = sum(max(lengths[n : n + rows]) for n in range(0, count, rows))
    times = in_turn(sides, flags.rounds)
    speeds = {name: sum(lengths) / median(values) for name, values in times.items()}
    best = {side: max(v for name, v in speeds.items() if name.startswith(side)) for side in ("ours", *peers)}
    report(
        flags,
        "ragged_sampling",
        best.pop("ours"),
        best,
        "tokens/s",
        times,
        rows=count,
        prompt=prompt,
        mean_length=sum(lengths) / count,
        longest=max(lengths),
        tokens_per_second=speeds,
        steps=steps,
        versions={name: one.version for name, one in peers.items()},
    )
    for one in peers.values():
        one.close()


if __name__ == "__main__":
    main()
