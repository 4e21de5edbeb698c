"""Time of an engine step as episodes in flight and the context grow, and the number of compiled programs.

Episodes of one agent: 8, 32, 128 and 512 at a context of 256; and full contexts of 256, 1024 and 4096 for 8 episodes.
The time of a step is the difference of two runs that differ only by 32 decoded tokens. So the prompt (shared by all
episodes and read once), start and end cancel out. `ours` is the growth of a step's time from 8 to 512 episodes, divided
by 64, the growth of the episodes. A plot is saved beside the JSON file. The number of times that the decode loop was
compiled may not depend on the size.
"""

from matplotlib.figure import Figure

from asyncthink_jax.rollout.state import Limits
from experiments.benchmarks.common import arguments, in_turn, median, report, timed
from experiments.benchmarks.ours import Ours, ending_after

SHORT, LONG = 4, 36  # decoded tokens of the two runs


def main() -> None:
    flags = arguments(__doc__, rounds=5)
    sizes = [(4, 64), (8, 64), (4, 128)] if flags.quick else [(8, 256), (32, 256), (128, 256), (512, 256)]
    sizes += [] if flags.quick else [(8, 1024), (8, 4096)]
    times, milliseconds, programs = {}, {}, {}
    for episodes, context in sizes:
        ours = Ours(flags.model, Limits(episodes, context, LONG, 0, prefill=context - LONG))
        prompts = ours.prompts([context - LONG]) * episodes

        def run(tokens: int, ours=ours, prompts=prompts, shape=(episodes, LONG)):
            return timed(lambda: ours.run(prompts, ending_after([tokens] * shape[0], shape)))

        here = in_turn({"short": lambda run=run: run(SHORT), "long": lambda run=run: run(LONG)}, flags.rounds)
        name = f"{episodes} episodes, context {context}"
        times |= {f"{name}, {length}": values for length, values in here.items()}
        difference = median(here["long"]) - median(here["short"])
        milliseconds[name] = 1e3 * max(difference, 1e-6) / (LONG - SHORT)  # in a smoke run it may be all noise
        programs[name] = ours.programs()
        print(f"{name}: {milliseconds[name]:.2f} ms a step, {programs[name]} programs")
    first, last = sizes[0], max(sizes)
    growth = (
        milliseconds[f"{last[0]} episodes, context {last[1]}"] / milliseconds["{} episodes, context {}".format(*first)]
    )
    result = report(
        flags,
        "scaling",
        growth / (last[0] / first[0]),
        {},
        f"growth of a step's time from {first[0]} to {last[0]} episodes, by that of the episodes",
        times,
        milliseconds_a_step=milliseconds,
        programs=programs,
        compile_count_constant=len(set(programs.values())) == 1,
    )
    if flags.results is not None:
        plot(sizes, milliseconds).savefig(flags.results / f"{result['name']}.png", dpi=120)


def plot(sizes: list[tuple[int, int]], milliseconds: dict[str, float]) -> Figure:
    """Time a step over episodes, and over the context, both axes logarithmic."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    context, episodes = min(size[1] for size in sizes), min(size[0] for size in sizes)
    for axes, label, place, kept in (
        (figure.add_subplot(1, 2, 1), f"episodes in flight (context {context})", 0, lambda size: size[1] == context),
        (figure.add_subplot(1, 2, 2), f"context ({episodes} episodes)", 1, lambda size: size[0] == episodes),
    ):
        chosen = sorted(size for size in sizes if kept(size))
        y = [milliseconds["{} episodes, context {}".format(*size)] for size in chosen]
        axes.plot([size[place] for size in chosen], y, marker="o")
        axes.set_xlabel(label)
        axes.set_ylabel("ms a step")
        axes.loglog(base=2)
        axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
