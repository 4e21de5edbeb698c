"""Fork-join episodes: ours in one jitted loop, against the same protocol driven from outside of a sampler.

8 episodes of 4 agents and 6 forks, with the same scripted lengths on all sides. From outside, a program calls
`generate` once a round with every trace that can go on, and each call reads the whole text of its traces again (see
`scripts.from_outside`). Projects with an inference library but no engine of their own work this way. There are two such
sides: transformers' `generate`, and our own sampler without workers. The second separates the gain of the protocol in
the loop from that of the sampler.

Counted: everything from the prompts to the last answer on the host. The outside is spared the work of a real program
between rounds: finding tags, copying text.
"""

from asyncthink_jax.rollout.state import Limits
from experiments.benchmarks import peer
from experiments.benchmarks.common import Time, arguments, in_turn, rates, report, timed
from experiments.benchmarks.ours import Ours, ending_after
from experiments.benchmarks.scripts import AGENTS, PROMPT, episodes, from_outside, longest, table


def main() -> None:
    flags = arguments(__doc__, rounds=5)
    count = 2 if flags.quick else 8
    scripts = episodes(count, flags.quick)
    rounds, (context, worker_context) = from_outside(scripts), longest(scripts)
    peers = peer.start(["transformers_generate"], flags)
    limits = Limits(count, context, context, worker_context, feed_width=16, worker_context=worker_context)
    ours = Ours(flags.model, limits, AGENTS)
    rows = max(map(len, rounds))
    sampler = Ours(flags.model, Limits(rows + rows % 2, context, context, 0, feed_width=16))

    def in_the_loop():
        return ours.run(ours.prompts([PROMPT] * count), table(scripts))

    def our_sampler() -> None:
        for calls in rounds:
            reads, writes = zip(*calls, strict=True)
            sampler.run(sampler.prompts(list(reads)), ending_after(list(writes), shape=(rows, context)))

    def transformers() -> Time:
        times = [
            peers["transformers_generate"].time(
                {"lengths": [reads for reads, _ in calls], "new": max(writes for _, writes in calls)}
            )
            for calls in rounds
        ]
        return Time(sum(time.seconds for time in times), sum(time.processor for time in times))

    rollout = in_the_loop()
    decoded = int(rollout.record["decoded"].sum())
    assert decoded == sum(writes for calls in rounds for _, writes in calls)
    sides = {"ours": lambda: timed(in_the_loop), "our sampler from outside": lambda: timed(our_sampler)}
    if peers:
        sides["transformers_generate from outside"] = transformers
    times = in_turn(sides, flags.rounds)
    speeds = rates(count, times)
    report(
        flags,
        "fork_join",
        speeds.pop("ours"),
        speeds,
        "episodes/s",
        times,
        episodes=count,
        decoded_tokens=decoded,
        engine_steps=rollout.engine_steps,
        rounds_outside=len(rounds),
        steps_outside=sum(max(writes for _, writes in calls) for calls in rounds),
        tokens_read_outside=sum(reads for calls in rounds for reads, _ in calls),
        versions={name: one.version for name, one in peers.items()},
    )
    for one in peers.values():
        one.close()


if __name__ == "__main__":
    main()
