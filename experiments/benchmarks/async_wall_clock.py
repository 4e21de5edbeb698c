"""The share of the speed-up in tokens that the clock shows: fork-join against one agent, 8 episodes in flight.

The speed-up in tokens is the tokens that one agent alone writes (thoughts, searches, answer) / critical path. The
speed-up on the clock is the time of a batch of sequential episodes / the time of the batch of fork-join episodes. Both
batches have 32 rows: 8 episodes of 4 agents, against 32 of one agent. So a step costs the same, and the benchmark
measures whether forks and joins cost extra. The share is the second speed-up divided by the first.

`detail` has the same with 8 episodes on both sides, where a sequential step has 8 rows and a fork-join step 32. If
decoding is bound by reading the weights the two agree; on a CPU more rows take more time.
"""

from asyncthink_jax.rollout.state import Limits
from experiments.benchmarks.common import arguments, in_turn, median, report, timed
from experiments.benchmarks.ours import Ours, ending_after
from experiments.benchmarks.scripts import AGENTS, PROMPT, episodes, longest, table


def main() -> None:
    flags = arguments(__doc__, rounds=7)
    in_flight = 2 if flags.quick else 8
    scripts = episodes(in_flight, flags.quick)
    context, worker_context = longest(scripts)
    limits = Limits(in_flight, context, context, worker_context, feed_width=16, worker_context=worker_context)
    fork_join = Ours(flags.model, limits, AGENTS)
    alone = [script.alone for script in scripts]
    sequential = {}
    for copies in (1, AGENTS):
        limits = Limits(in_flight * copies, PROMPT + max(alone), max(alone), 0, feed_width=16)
        sequential[copies] = Ours(flags.model, limits)

    def run(ours: Ours, copies: int):
        return ours.run(ours.prompts([PROMPT] * in_flight * copies), ending_after(alone * copies))

    rollout = fork_join.run(fork_join.prompts([PROMPT] * in_flight), table(scripts))
    token_bytes = fork_join.engine.wire.token_bytes
    assert all(rollout.episode(n, token_bytes).format_error is None for n in range(in_flight))
    path = rollout.record["clock"][:, 0]
    times = in_turn(
        {
            "fork-join": lambda: timed(lambda: fork_join.run(fork_join.prompts([PROMPT] * in_flight), table(scripts))),
            "sequential, as many rows": lambda: timed(lambda: run(sequential[AGENTS], AGENTS)),
            "sequential, as many episodes": lambda: timed(lambda: run(sequential[1], 1)),
        },
        flags.rounds,
    )
    # A batch is done when its longest episode is.
    in_tokens = max(alone) / int(path.max())
    on_clock = {name: median(values) / median(times["fork-join"]) for name, values in times.items()}
    report(
        flags,
        "async_wall_clock",
        on_clock["sequential, as many rows"] / in_tokens,
        {},
        "share of the speed-up in tokens, at as many rows",
        times,
        episodes=in_flight,
        agents=AGENTS,
        speed_up_in_tokens=in_tokens,
        speed_up_on_the_clock=on_clock,
        share_at_as_many_episodes=on_clock["sequential, as many episodes"] / in_tokens,
        fork_join_steps=rollout.engine_steps,
    )


if __name__ == "__main__":
    main()
