"""Engine steps for each token of the critical path, of fork-join episodes alone in the engine. A count, not a time.

64 scripted episodes of 4 agents and 6 forks, one after the other. All steps of an episode count, also those that read
its prompt of 24 tokens. `detail` has a wide feed (16 tokens a step), a narrow one (1), and the steps without the
prompt's. 1.0 would mean that the critical path decodes a token in every step.
"""

from asyncthink_jax.rollout.state import Limits
from experiments.benchmarks.common import QUICK_MODEL, arguments, report
from experiments.benchmarks.ours import Ours
from experiments.benchmarks.scripts import AGENTS, PROMPT, episodes, longest, table


def main() -> None:
    flags = arguments(__doc__, rounds=1)
    flags.model = QUICK_MODEL  # what is counted doesn't depend on it
    scripts = episodes(4 if flags.quick else 64, flags.quick)
    script, (context, worker_context) = table(scripts), longest(scripts)
    steps, path = {}, 0
    for width in (16, 1):
        limits = Limits(1, context, context, worker_context, feed_width=width, worker_context=worker_context)
        ours = Ours(flags.model, limits, AGENTS)
        rollouts = [ours.run(ours.prompts([PROMPT]), script[n : n + 1]) for n in range(len(scripts))]
        steps[width] = sum(rollout.engine_steps for rollout in rollouts)
        path = sum(int(rollout.record["clock"][0, 0]) for rollout in rollouts)
    without_prompt = {width: count - len(scripts) * (-(-PROMPT // width) - 1) for width, count in steps.items()}
    report(
        flags,
        "steps_per_token",
        steps[16] / path,
        {},
        "engine steps per token of the critical path",
        len(scripts),
        critical_path=path / len(scripts),
        steps_per_token={f"feed_width {width}": count / path for width, count in steps.items()},
        without_prompt={f"feed_width {width}": count / path for width, count in without_prompt.items()},
    )


if __name__ == "__main__":
    main()
