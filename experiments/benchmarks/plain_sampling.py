"""Plain sampling: tokens/s of ours, of tunix's vanilla sampler and of transformers' `generate`.

R = 16 rows, each with a prompt of 128 tokens and 256 new ones, temperature 1, fp32. Counted: everything from the tokens
of the prompts to the new tokens on the host, prefill included; ours also returns every token's log-probability. Not
counted: building the model, compilation, text. Equal lengths: budgets and caps of 256; no row may end earlier.
"""

from asyncthink_jax.rollout.state import Limits
from experiments.benchmarks import peer
from experiments.benchmarks.common import arguments, in_turn, rates, report, timed
from experiments.benchmarks.ours import Ours, ending_after


def main() -> None:
    flags = arguments(__doc__, rounds=5)
    rows, prompt, new = (4, 8, 16) if flags.quick else (16, 128, 256)
    peers = peer.start(["tunix_sampler", "transformers_generate"], flags)
    limits = Limits(slots=rows, context=prompt + new, organizer_budget=new, worker_budget=0, feed_width=min(prompt, 64))
    ours = Ours(flags.model, limits)
    prompts, script = ours.prompts([prompt] * rows), ending_after([new] * rows)

    assert (ours.run(prompts, script).record["decoded"] == new).all()
    work = {
        "tunix_sampler": {"prompt": prompt, "lengths": [new] * rows, "cap": new},
        "transformers_generate": {"lengths": [prompt] * rows, "new": new},
    }
    sides = {name: lambda name=name: peers[name].time(work[name]) for name in peers}
    times = in_turn({"ours": lambda: timed(lambda: ours.run(prompts, script)), **sides}, flags.rounds)
    speeds = rates(rows * new, times)
    report(
        flags,
        "plain_sampling",
        speeds.pop("ours"),
        speeds,
        "tokens/s",
        times,
        rows=rows,
        prompt=prompt,
        new=new,
        devices=ours.mesh.size,
        versions={name: one.version for name, one in peers.items()},
    )
    for one in peers.values():
        one.close()


if __name__ == "__main__":
    main()
