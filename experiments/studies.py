"""The runs that show the paper's results in shape, on the tiny task: baselines, ablations, studies.

`experiments/reproduce.py` runs them, `experiments/table.py` makes their table. A study is a config with overrides. Its
name is the name of its rows in results.json and, with the seed, of its folder. Some studies take the cold start of
another one; some only score the best checkpoint of another one in another way.

The studies of `make reproduce-tiny` take 179 minutes on two idle cores, the sum of these minutes:

    async                      3 seeds   14.5 min    cold start 8:20, RL 5:20, scoring and starting 0:50
    async_without_concurrency  3          9          RL alone
    sequential                 3         14.5        cold start 8, RL 6
    parallel                   3          1          the sequential model, four traces an episode
    parallel_2, parallel_cut   3          1 each     the same, two traces; traces cut at async's path
    async_without_cold_start   3          8          RL alone
    pool_2, pool_8             1         15 each
    parallel_8                 1          2          the sequential model, eight traces an episode
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent
Part = Literal["tiny", "baselines", "studies"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One row of the table.

    Attributes:
      config: file in experiments/, without .py.
      overrides: fields that differ from it.
      cold_start: the study whose cold start is taken.
      scores: the study whose best checkpoint is scored with the overrides, instead of a training of its own.
      seeds: number of seeds, from 0 up.
      minutes: time of one seed on two idle cores.
      shows: the purpose of the study.
    """

    name: str
    title: str
    part: Part
    config: str = "countdown_tiny"
    overrides: tuple[str, ...] = ()
    cold_start: str = ""
    scores: str = ""
    seeds: int = 1
    minutes: float
    shows: str

    @property
    def needs(self) -> str:
        """The study that has to be there first, if any."""
        return self.cold_start or self.scores

    @property
    def config_file(self) -> Path:
        return HERE / f"{self.config}.py"

    def folder(self, runs: Path, seed: int) -> Path:
        """The folder of its run; for a study that scores another's checkpoint, the folder of the other."""
        demo = demo_folder(runs, seed)
        return demo if self.name == "async" else demo.with_name(f"{demo.name}_{self.scores or self.name}")


def demo_folder(runs: Path, seed: int) -> Path:
    """The demo's run with this seed: its results.json has the rows of all studies."""
    return runs / ("countdown_tiny" + (f"_seed{seed}" if seed else ""))


def _parallel(name: str, title: str, *overrides: str, minutes: float, shows: str, seeds: int = 1) -> Study:
    """The sequential model, scored as traces that are merged by votes."""
    return Study(
        name=name,
        title=title,
        part="tiny",
        config="countdown_tiny_sequential",
        overrides=("paradigm=parallel", *overrides),
        scores="sequential",
        seeds=seeds,
        minutes=minutes,
        shows=shows,
    )


# The most telling first. What another needs stands before it.
STUDIES: tuple[Study, ...] = (
    Study(
        name="async",
        title="async",
        part="tiny",
        seeds=3,
        minutes=14.5,
        shows="Figure 5 and Table 3, full method; after the cold start: Table 3, no RL (far below)",
    ),
    Study(
        name="async_without_concurrency",
        title="async without the concurrency reward (λ = 0)",
        part="tiny",
        config="countdown_tiny_accuracy_only",
        cold_start="async",
        seeds=3,
        minutes=9,
        shows="Table 3, no concurrency reward: as accurate, critical path at least 15% longer",
    ),
    Study(
        name="sequential",
        title="sequential (c = 1)",
        part="tiny",
        config="countdown_tiny_sequential",
        seeds=3,
        minutes=14.5,
        shows="Figure 5, sequential; pool capacity 1",
    ),
    _parallel(
        "parallel",
        "parallel (4 traces, merged by votes)",
        seeds=3,
        minutes=1,
        shows="Figure 5, parallel; its traces are trained one by one, which is the sequential run",
    ),
    _parallel(
        "parallel_2",
        "parallel, 2 traces",
        "pool.parallel_traces=2",
        seeds=3,
        minutes=1,
        shows="the effect of votes: two traces decode half as much as four, and still more than async",
    ),
    _parallel(
        "parallel_cut",
        "parallel, cut at 120 tokens a trace",
        "rollout.organizer_budget=120",
        seeds=3,
        minutes=1,
        shows="Figure 7: the score of parallel traces on a critical path no longer than async's",
    ),
    Study(
        name="async_without_cold_start",
        title="async without a cold start in the protocol",
        part="tiny",
        config="countdown_tiny_no_cold_start",
        cold_start="sequential",
        seeds=3,
        minutes=8,
        shows="Table 3, no cold start: concurrency stuck at 1/c",
    ),
    Study(
        name="pool_2",
        title="async, c = 2",
        part="tiny",
        config="countdown_tiny_pool_2",
        minutes=15,
        shows="pool capacity 2 (the paper has no such study)",
    ),
    Study(
        name="pool_8",
        title="async, c = 8",
        part="tiny",
        config="countdown_tiny_pool_8",
        minutes=15,
        shows="pool capacity 8",
    ),
    _parallel(
        "parallel_8",
        "parallel, 8 traces",
        "pool.parallel_traces=8",
        minutes=2,
        shows="the same number of agents without a protocol",
    ),
    Study(
        name="control",
        title="control (more cold start, no RL)",
        part="baselines",
        config="countdown_tiny_control",
        minutes=14,
        shows="the gain of more imitation, for comparison with RL",
    ),
    Study(
        name="oracle",
        title="oracle (shown every pair forked, no RL)",
        part="baselines",
        config="countdown_tiny_oracle",
        minutes=9.5,
        shows="an upper reference: demonstrations in which everything is covered and overlapped",
    ),
    *(
        Study(
            name=f"lambda_{weight}",
            title=f"async, λ = {weight}",
            part="studies",
            overrides=(f"rl.concurrency_weight={weight}",),
            cold_start="async",
            minutes=6.5,
            shows=f"the weight of concurrency in the reward: {weight}, in the demo 6 (unknown in the paper)",
        )
        for weight in (2, 12)
    ),
    *(
        Study(
            name=f"tau_{percent}",
            title=f"async, τ = {percent / 100:g}",
            part="studies",
            overrides=(f"rl.tau={percent / 100:g}",),
            cold_start="async",
            minutes=6.5,
            shows=f"the ratio beyond which concurrency earns nothing: {percent}%, in the demo 80%",
        )
        for percent in (40, 100)
    ),
    Study(
        name="without_std",
        title="async, advantages only mean-centred",
        part="studies",
        overrides=("rl.std_normalise=false",),
        cold_start="async",
        minutes=6.5,
        shows="ThreadWeaver's finding: dividing by the group's deviation lets the concurrency term explode",
    ),
    Study(
        name="two_shapes",
        title="async, cold start of two shapes",
        part="studies",
        overrides=("task.shapes=two",),
        minutes=14.5,
        shows="the effect of random action sequences in the cold start (claimed in the paper, never shown)",
    ),
    Study(
        name="three_numbers",
        title="async, trained on three numbers",
        part="studies",
        config="countdown_tiny_three_numbers",
        minutes=12,
        shows="generalisation, as trained: problems of three numbers, two solutions",
    ),
    Study(
        name="three_numbers_on_four",
        title="async, trained on three numbers, asked for four",
        part="studies",
        config="countdown_tiny_three_numbers",
        overrides=("task.numbers=4",),
        scores="three_numbers",
        minutes=1,
        shows="generalisation: problems of four numbers, two solutions",
    ),
)
BY_NAME = {study.name: study for study in STUDIES}
# What `make reproduce-tiny`, `make baselines` (what docs/results.md compares the demo with) and `make studies` run.
PARTS: dict[str, tuple[str, ...]] = {
    "tiny": tuple(study.name for study in STUDIES if study.part == "tiny"),
    "baselines": ("async", "async_without_concurrency", "sequential", "parallel", "control", "oracle"),
    "studies": tuple(study.name for study in STUDIES if study.part == "studies"),
}


def runs_of(names: Iterable[str], seeds: int = 3, seed: int | None = None) -> list[tuple[Study, int]]:
    """(study, seed) of each run of these studies and parts, and of what they need: seed by seed, single ones last.

    seeds: at most so many of each study; with `seed`, that one alone. Raises KeyError, of the name, for one that is
    neither a study nor a part.
    """
    wanted: set[tuple[str, int]] = set()
    for name in names:
        for study in [BY_NAME[one] for one in PARTS.get(name, (name,))]:
            for number in range(min(study.seeds, seeds)) if seed is None else (seed,):
                needed: Study | None = study
                while needed:
                    wanted.add((needed.name, number))
                    needed = BY_NAME.get(needed.needs)
    numbers = sorted({number for _, number in wanted})
    runs = [(study, number) for number in numbers for study in STUDIES if (study.name, number) in wanted]
    return sorted(runs, key=lambda run: run[0].seeds == 1)


def hours(minutes: float) -> str:
    """1:05 h, or 12 min."""
    whole = round(minutes)
    return f"{whole // 60}:{whole % 60:02d} h" if whole >= 60 else f"{whole} min"
