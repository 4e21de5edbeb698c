"""The tables of README.md, docs/ and experiments/README.md, from the committed results of runs and benchmarks.

    python -m experiments.table            # or: make table

`experiments/results/countdown_tiny_seed<n>.json` is the `results.json` of a run of the demo, with the rows of all
studies, which `experiments/reproduce.py` puts there; without `wall_clock_s` where other work ran beside the demo. What
stands between markers like `<!-- results:begin -->` and `<!-- results:end -->` of the documents is made here (a test
holds them to it).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from asyncthink_jax.audit.programs import sent_bytes
from asyncthink_jax.command import ending, prepare_streams
from asyncthink_jax.files import replace_text
from asyncthink_jax.storage.metrics import markdown_table, minutes
from experiments import paper, smallest_slices
from experiments.benchmarks import table as performance
from experiments.scores import RESULTS, Column, Results, cell, load, rows_of, score
from experiments.studies import BY_NAME

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
README, EXPERIMENTS, DOCS = ROOT / "README.md", HERE / "README.md", ROOT / "docs"

Number = Callable[[Results], float]  # of one seed; KeyError if the run that it needs was not made

# The rows of the demo, in the order of the table; the names of all studies stand in studies.py.
PARADIGMS = {
    name: BY_NAME[name].title
    for name in ("async", "async_without_concurrency", "sequential", "parallel", "control", "oracle")
}
STAGES = {"after_sft": "after the cold start", "after_rl": "after RL"}
STAGE_NAMES = {"sft": "cold start", "rl": "RL", "eval": "evaluation"}
LAST_STAGE = {"control": "after_sft", "oracle": "after_sft"}
COLUMNS: list[Column] = [
    ("all 4 correct", "all_correct", 100, 1),
    ("≥ 3", "at_least/3", 100, 1),
    ("≥ 1", "at_least/1", 100, 1),
    ("wrong", "wrong", 100, 1),
    ("format errors", "format_error", 100, 1),
    ("critical path", "critical_path", 1, 0),
    ("η/c", "concurrency", 1, 2),
]
FRONT = ("all_correct", "at_least/1", "critical_path", "concurrency")


def front_table(results: Mapping[int, Results]) -> str:
    """Three rows for the front page: the demo before and after RL, and the sequential baseline, at RL's temperature."""
    lines = []
    for paradigm, stage in (("async", "after_sft"), ("async", "after_rl"), ("sequential", "after_rl")):
        if rows := rows_of(results, paradigm, stage):
            cells = [cell(rows, column) for column in COLUMNS if column[1] in FRONT]
            lines.append([f"{PARADIGMS[paradigm]}, {STAGES[stage]}", *cells])
    return markdown_table(["600 test problems", *(c[0] for c in COLUMNS if c[1] in FRONT)], lines, 1)


def summary_table(results: Mapping[int, Results], suffixes: Sequence[str] = ("", "_greedy")) -> str:
    """Scores of every paradigm over the seeds that have been run: at the temperature of RL, greedy, at 1 ("_t1")."""
    lines = []
    for paradigm, label in PARADIGMS.items():
        for stage, stage_label in STAGES.items():
            if paradigm not in ("async", "sequential", "parallel") and stage != LAST_STAGE.get(paradigm, "after_rl"):
                continue
            for suffix in suffixes:
                rows = rows_of(results, paradigm, stage + suffix)
                if not rows:
                    continue
                bold = "**" if (paradigm, stage) == ("async", "after_rl") else ""
                temperature = f"{rows[0]['temperature']:g}" if rows[0]["temperature"] else "greedy"
                cells = [cell(rows, column) for column in COLUMNS]
                lines.append([f"{bold}{label}, {stage_label}{bold}", temperature, str(len(rows)), *cells])
    return markdown_table(
        ["600 test problems, 1 sample each", "temperature", "seeds", *(c[0] for c in COLUMNS)], lines, 1
    )


def of(paradigm: str, row: str, name: str, factor: float = 1) -> Number:
    """A score of one row, times `factor`."""
    return lambda results: factor * score(results["paradigms"][paradigm][row], name)


def path_over(paradigm: str, row: str) -> Number:
    """The critical path of the async model after RL, over that of another row."""
    ours, others = (of(*place, "critical_path") for place in (("async", "after_rl"), (paradigm, row)))
    return lambda results: ours(results) / others(results)


def lead_over(paradigm: str, row: str = "after_rl") -> Number:
    """By how many points the async model after RL solves more problems completely."""
    ours, others = (of(*place, "all_correct", 100) for place in (("async", "after_rl"), (paradigm, row)))
    return lambda results: ours(results) - others(results)


def whole_run(results: Results) -> float:
    """Minutes of `make train` on two cores; KeyError for a run on others, or one that shared them with other work."""
    if not results["hardware"].startswith("2 "):
        raise KeyError("not measured")
    return sum(results["wall_clock_s"].values()) / 60


# What the demo was built to reach: name, goal, the number, decimals.
GOALS: list[tuple[str, str, Number, int]] = [
    ("wall-clock of `make train` on two cores, minutes", "≤ 12", whole_run, 1),
    ("format errors after the cold start, T = 1, %", "≤ 5", of("async", "after_sft_t1", "format_error", 100), 1),
    ("all four correct after the cold start, %", "", of("async", "after_sft", "all_correct", 100), 1),
    ("all four correct after RL, %", "≥ 80, 40 points more", of("async", "after_rl", "all_correct", 100), 1),
    ("at least one correct after RL, %", "≥ 98", of("async", "after_rl", "at_least/1", 100), 1),
    ("wrong expressions after RL, %", "≤ 4", of("async", "after_rl", "wrong", 100), 1),
    ("η/c after RL", "≥ 0.55", of("async", "after_rl", "concurrency"), 3),
    ("critical path after RL / with λ = 0", "≤ 0.85", path_over("async_without_concurrency", "after_rl"), 2),
    ("critical path after RL / of the oracle", "≤ 0.85", path_over("oracle", "after_sft"), 2),
    ("all four correct: points above the control", "far above 0", lead_over("control", "after_sft"), 1),
    ("all four correct: points above sequential", "> 0", lead_over("sequential"), 1),
    ("critical path / of sequential", "< 1", path_over("sequential", "after_rl"), 2),
    ("all four correct: points above parallel", "> 0", lead_over("parallel"), 1),
    ("critical path / of parallel", "< 1", path_over("parallel", "after_rl"), 2),
]


def goals_table(results: Mapping[int, Results]) -> str:
    """The demo's goals, and what each seed reached; "-" where a run that it needs was not made."""
    lines = []
    for name, wanted, number, decimals in GOALS:
        cells = []
        for one in results.values():
            try:
                cells.append(f"{number(one):.{decimals}f}")
            except KeyError:
                cells.append("-")
        lines.append([name, wanted, *cells])
    return markdown_table(["sampled at the temperature of RL", "goal", *(f"seed {seed}" for seed in results)], lines, 2)


def runs_table(results: Mapping[int, Results]) -> str:
    """Where each seed's rows come from."""
    lines = []
    for seed, one in results.items():
        for paradigm in (name for name in PARADIGMS if name in one["paradigms"]):
            stages = one["paradigms"][paradigm]
            row = stages.get("after_rl") or stages["after_sft"]
            spent = row["wall_clock_s"]
            clock = ", ".join(f"{stage} {minutes(spent[stage])}" for stage in ("sft", "rl") if stage in spent)
            made = [row["date"], f"`{row['commit'][:10]}`", row["hardware"]]
            lines.append([PARADIGMS[paradigm], str(seed), clock or "scored only", *made])
    return markdown_table(["run", "seed", "wall-clock", "date", "commit", "hardware"], lines, 1)


def caption(results: Mapping[int, Results]) -> str:
    """How to read the summary, and what its first seed took, when, where, and with which code.

    A run that shared its cores with others says nothing of what `make train` takes.
    """
    seed, first = min(results.items())
    took = f"Seed {seed} was run beside others"
    if clock := first.get("wall_clock_s"):
        total = minutes(sum(clock.values()))
        stages = ", ".join(f"{name} {minutes(clock[stage])}" for stage, name in STAGE_NAMES.items())
        took = f"`make train` (seed {seed}) took {total} minutes after the installation ({stages})"
    return (
        "Shares in %. Of several seeds: mean ± standard error over seeds, of one: ± standard error over problems. "
        f"{took} on {first['hardware']}, {first['date']}, commit `{first['commit'][:10]}`."
    )


def compiled_table() -> str:
    """Qwen3-4B on whole slices, from the reports of `compile` in results/compiled."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((RESULTS / "compiled").glob("*.json"))]
    if not reports:
        return ""
    lines = []
    for one in reports:
        cells = [f"{step['hbm_bytes'] / 2**30:.1f}" for step in one["steps"].values()]
        capacity = f"{one['hbm_capacity_bytes'] / 2**30:.1f}"
        fits = "fits" if one["fits"] else "too large"
        aside = f"{100 * one['steps']['decode']['temporary_bytes'] / one['cache_bytes']:.0f}%"
        flying = str(one["episodes_in_flight"])
        lines.append([f"{one['topology']} ({one['chips']} chips)", flying, *cells, capacity, fits, aside])
    heads = ["slice", "episodes", *reports[0]["steps"], "of a chip", "", "temporaries / cache"]
    return markdown_table(heads, lines, 1)


def pods_table() -> str:
    """What a chip sends in a training step on slices of several sizes, with as many rows a chip on each."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS / "pods").glob("*.json")]
    reports.sort(key=lambda one: one["chips"])
    if not reports:
        return ""
    lines = []
    for step in ("sft_step", "rl_step"):
        sent = [one["steps"][step]["collectives"] for one in reports]
        kinds = sorted({kind for one in sent for kind in one})
        for kind in (*kinds, "all"):
            sizes = [sent_bytes({k: x for k, x in one.items() if kind in (k, "all")}) / 2**30 for one in sent]
            if max(sizes) >= 0.01:
                growth = f"{100 * (sizes[-1] / sizes[0] - 1):+.0f}%" if sizes[0] else "new"
                lines.append([step, kind, *(f"{size:.2f}" for size in sizes), growth])
    names = [f"{one['topology']} ({one['chips']} chips)" for one in reports]
    return markdown_table(["step", "collectives, GiB a chip", *names, "growth"], lines, 2)


def blocks() -> list[tuple[Path, str, str]]:
    """The generated parts: document, name of the markers around it, text with its markers."""
    results = load()
    parts = [
        (README, "front", front_table(results)),
        (DOCS / "results.md", "results", summary_table(results) + "\n\n" + caption(results)),
        (DOCS / "speed.md", "performance", performance.markdown().rstrip()),
        (
            EXPERIMENTS,
            "results",
            "\n\n".join([goals_table(results), summary_table(results, ("_t1",)), runs_table(results)]),
        ),
        (EXPERIMENTS, "studies", paper.studies_markdown(results)),
        (EXPERIMENTS, "paper", paper.markdown(results)),
        (DOCS / "tpu_pods.md", "compiled", compiled_table()),
        (DOCS / "tpu_pods.md", "slices", smallest_slices.markdown()),
        (DOCS / "tpu_pods.md", "pods", pods_table()),
    ]
    return [(path, name, f"{marker(name, 'begin')}\n{text}\n{marker(name, 'end')}") for path, name, text in parts]


def marker(name: str, which: str) -> str:
    return f"<!-- {name}:{which} -->"


def write(root: Path = ROOT) -> list[Path]:
    """Puts the tables into the documents of the repository at `root`; returns the documents."""
    made = blocks()
    for original, name, block in made:
        path = root / original.relative_to(ROOT)
        before, rest = path.read_text(encoding="utf-8").split(marker(name, "begin"))
        replace_text(path, before + block + rest.split(marker(name, "end"))[1])
    return sorted({root / path.relative_to(ROOT) for path, _, _ in made})


def main() -> None:
    write()
    for _, _, block in blocks():
        print(block)


if __name__ == "__main__":
    prepare_streams()
    with ending():
        main()
