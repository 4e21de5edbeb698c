"""The paper's tables and figures, one row each: the command, the paper's numbers, and ours.

Nothing at the paper's size has been run: such a row says what it needs. A row in shape is of the tiny task
(`experiments/studies.py`), with the numbers of the committed results. The paper's numbers are from its Section 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asyncthink_jax.storage.metrics import markdown_table
from experiments.scores import Column, Results, cell, rows_of
from experiments.studies import STUDIES, hours, runs_of

V5E_64 = "TPU v5e-64"
CORES = "2 CPU cores"
MCD_HOURS, MATH_HOURS = 4, 6  # of a run, at most, by the notes of countdown_mcd.py and math_qwen3.py
ALL_CORRECT: Column = ("all correct", "all_correct", 100, 1)
PATH: Column = ("critical path", "critical_path", 1, 0)
CONCURRENCY: Column = ("η/c", "concurrency", 100, 1)
STUDY_COLUMNS: list[Column] = [
    ALL_CORRECT,
    ("R_A", "accuracy", 100, 1),
    ("≥ 1", "at_least/1", 100, 1),
    PATH,
    CONCURRENCY,
    ("forks", "forks", 1, 1),
    ("format errors", "format_error", 100, 1),
    ("tokens", "tokens", 1, 0),
]


@dataclass(frozen=True)
class Shown:
    """A number of the tiny task: its study, its stage and its label."""

    label: str
    study: str
    stage: str = "after_rl"


PARADIGMS = (Shown("async", "async"), Shown("parallel", "parallel"), Shown("sequential", "sequential"))
BUDGETS = (
    Shown("async", "async"),
    Shown("parallel", "parallel"),
    Shown("2 traces", "parallel_2"),
    Shown("traces cut at 120 tokens", "parallel_cut"),
)
ABLATIONS = (
    Shown("full", "async"),
    Shown("no concurrency reward", "async_without_concurrency"),
    Shown("no cold start", "async_without_cold_start"),
    Shown("no RL", "async", "after_sft"),
)
POOLS = (
    Shown("c = 1", "sequential"),
    Shown("2", "pool_2"),
    Shown("4", "async"),
    Shown("8", "pool_8"),
    Shown("8 parallel traces", "parallel_8"),
)


@dataclass(frozen=True)
class Row:
    """A table or figure, at the paper's size (`chip_hours`) or in shape (`shown`, each in all of `columns`)."""

    what: str
    configs: tuple[str, ...]  # in experiments/, without .py
    command: str
    needs: str  # hardware and time; "" = two cores, as long as the studies that are shown take
    paper: str
    chip_hours: float = 0
    shown: tuple[Shown, ...] = ()
    columns: tuple[Column, ...] = ()
    drawn: str = ""  # a committed figure, in place of numbers


def trained(config: str) -> str:
    return f"python -m asyncthink_jax.train --config experiments/{config}.py --workdir gs://BUCKET/{config}"


ABLATED = "{}`, with `--config.rl.concurrency_weight=0`, `--config.sft.steps=0`, `--config.rl.iterations=0"
REPORT = "python -m asyncthink_jax.report --workdir"
REPRODUCE = "make reproduce-tiny"
TINY = ("countdown_tiny", "countdown_tiny_parallel", "countdown_tiny_sequential")
TABLE_3 = ("countdown_tiny", "countdown_tiny_accuracy_only", "countdown_tiny_no_cold_start")

ROWS: tuple[Row, ...] = (
    Row(
        "Multi-solution Countdown (MCD), all 4 correct",
        ("countdown_mcd",),
        trained("countdown_mcd") + "`, the baselines with `--config.paradigm=sequential",
        f"{V5E_64}, {MCD_HOURS} h for async and for sequential, whose traces are the parallel ones",
        "async 89.0, parallel 68.6, sequential 70.5",
        chip_hours=2 * 64 * MCD_HOURS,
    ),
    Row("MCD, in shape", TINY, REPRODUCE, "", "", shown=PARADIGMS, columns=(ALL_CORRECT, PATH)),
    Row(
        "Figure 5, at least 3, 2, 1 correct",
        ("countdown_mcd",),
        f"{REPORT} gs://BUCKET/countdown_mcd --out report",
        "the runs of the row MCD",
        "async 96.8, 98.8, 99.5; parallel 86.2, 92.8, 97.1; sequential 80.0, 83.8, 88.0",
        chip_hours=2 * 64 * MCD_HOURS,
    ),
    Row(
        "Figure 5, in shape",
        TINY,
        f"{REPORT} runs/countdown_tiny",
        "the runs of the row above",
        "",
        shown=PARADIGMS,
        columns=tuple((f"≥ {k}", f"at_least/{k}", 100, 1) for k in (3, 2, 1)),
    ),
    Row(
        "Mathematics: AIME-24 and AMC-23, accuracy at latency",
        ("math_qwen3", "math_qwen3_sequential", "math_qwen3_parallel"),
        trained("math_qwen3"),
        f"{V5E_64}, {MATH_HOURS} h for each of async, L1K and L2K",
        "async 38.7 at 1,468 and 73.3 at 1,460; parallel L2K 38.7 at 2,048 and 72.8 at 2,031, L1K 24.7 and 61.9; "
        "sequential L2K 35.3 and 67.0, L1K 24.7 and 59.5",
        chip_hours=3 * 64 * MATH_HOURS,
    ),
    Row(
        "Table 3 (ablation), MCD: accuracy, η/c, latency",
        ("countdown_mcd",),
        ABLATED.format(trained("countdown_mcd")),
        f"{V5E_64}, {MCD_HOURS} h for each of the first three",
        "full 89.0, 64.7, 4,525; no concurrency reward 85.3, 61.3, 6,251; no cold start 64.8, 50.0, 3,434; no RL 0.0, "
        "49.2, 1,988",
        chip_hours=3 * 64 * MCD_HOURS,
    ),
    Row(
        "Table 3, AMC-23",
        ("math_qwen3",),
        ABLATED.format(trained("math_qwen3")),
        f"{V5E_64}, {MATH_HOURS} h for each of the first three",
        "full 73.3, 44.8, 1,460; no concurrency reward 71.3, 26.1, 1,933; no cold start 54.9, 25.0, 1,008; no RL 3.6, "
        "33.3, 1,397",
        chip_hours=3 * 64 * MATH_HOURS,
    ),
    Row(
        "Table 3, in shape",
        TABLE_3,
        REPRODUCE,
        "",
        "",
        shown=ABLATIONS,
        columns=(ALL_CORRECT, CONCURRENCY, PATH),
    ),
    Row(
        "Sudoku 4x4, zero-shot from MCD",
        ("countdown_mcd",),
        "python -m asyncthink_jax.evaluate --workdir gs://BUCKET/countdown_mcd --config.task.name=sudoku",
        f"{V5E_64}, 10 minutes for each paradigm, after the runs of the row MCD",
        "async 89.4 at 2,853, parallel 84.2 at 3,695, sequential 65.7 at 2,056",
        chip_hours=2 * 64 * MCD_HOURS + 3 * 64 / 6,
    ),
    Row(
        "Figure 6, training dynamics",
        ("countdown_mcd",),
        f"{REPORT} gs://BUCKET/countdown_mcd --out report",
        "the async run of the row MCD",
        "accuracy rises first, with latency; η/c dips, then rises, and latency falls; forks grow",
        chip_hours=64 * MCD_HOURS,
    ),
    Row(
        "Figure 6, in shape",
        ("countdown_tiny",),
        f"{REPORT} runs/countdown_tiny",
        f"{CORES}, 15 min",
        "",
        drawn="learning_curves",
    ),
    Row(
        "Figure 7, accuracy against latency",
        ("math_qwen3", "math_qwen3_sequential", "math_qwen3_parallel"),
        f"{REPORT} gs://BUCKET/math_qwen3 --out report",
        "the runs of the row mathematics",
        "the frontier of the two",
        chip_hours=3 * 64 * MATH_HOURS,
    ),
    Row(
        "Figure 7, in shape",
        TINY,
        f"{REPORT} runs/countdown_tiny",
        "the runs of the row MCD",
        "",
        shown=PARADIGMS,
        columns=(("R_A", "accuracy", 100, 1), PATH),
    ),
    Row(
        "Parallel traces with fewer tokens, or shorter ones",
        ("countdown_tiny", "countdown_tiny_parallel"),
        REPRODUCE,
        "",
        "AMC-23: L2K 72.8 at 2,031, L1K 61.9 at 1,030",
        shown=BUDGETS,
        columns=(ALL_CORRECT, PATH, ("tokens", "tokens", 1, 0)),
    ),
    Row(
        "Figures 8 to 11, MMLU-Pro case studies: timelines",
        ("mmlu_pro_qwen3",),
        f"{REPORT} gs://BUCKET/mmlu_pro_qwen3 --out report",
        f"{V5E_64}, 10 minutes",
        "organizers and workers of episodes in graph theory and genetics",
        chip_hours=64 / 6,
    ),
    Row(
        "Figures 8 to 11, in shape",
        ("countdown_tiny",),
        f"{REPORT} runs/countdown_tiny",
        f"{CORES}, 15 min",
        "",
        drawn="episode",
    ),
    Row(
        "Pool capacity",
        ("countdown_tiny_sequential", "countdown_tiny_pool_2", "countdown_tiny", "countdown_tiny_pool_8"),
        REPRODUCE,
        "",
        "no such study",
        shown=POOLS,
        columns=(ALL_CORRECT, PATH, CONCURRENCY),
    ),
    Row(
        "λ and τ",
        ("countdown_tiny",),
        "make studies",
        "",
        "unknown",
        shown=(
            *(Shown(f"λ = {weight}", f"lambda_{weight}") for weight in (2, 12)),
            *(Shown(f"τ = {percent / 100:g}", f"tau_{percent}") for percent in (40, 100)),
        ),
        columns=(ALL_CORRECT, PATH, CONCURRENCY),
    ),
    Row(
        "Advantages divided by the group's deviation, or not",
        ("countdown_tiny",),
        "make studies",
        "",
        "unknown; ThreadWeaver: 74.8 with, 79.9 without",
        shown=(Shown("with", "async"), Shown("without", "without_std")),
        columns=(ALL_CORRECT, PATH, CONCURRENCY),
    ),
    Row(
        "Cold start of random action sequences, or of two shapes",
        ("countdown_tiny",),
        "make studies",
        "",
        "claimed (Section 3), not shown",
        shown=(Shown("random", "async"), Shown("two shapes", "two_shapes")),
        columns=(ALL_CORRECT, PATH, CONCURRENCY),
    ),
    Row(
        "Generalisation: trained on three numbers",
        ("countdown_tiny_three_numbers",),
        "make studies",
        "",
        "no such study",
        shown=(Shown("asked for three", "three_numbers"), Shown("asked for four", "three_numbers_on_four")),
        columns=(ALL_CORRECT, PATH, CONCURRENCY),
    ),
)


def markdown(results: Mapping[int, Results]) -> str:
    """The table of ROWS; `results` by seed."""
    lines = []
    for row in ROWS:
        configs = ", ".join(f"[{name}.py]({name}.py)" for name in row.configs)
        needs = row.needs or _time(row.shown)
        lines.append([row.what, configs, f"`{row.command}`", needs, row.paper, _ours(row, results)])
    header = ["table or figure", "config", "command", "hardware and time", "the paper's", "ours"]
    return markdown_table(header, lines, len(header))


def _time(shown: Sequence[Shown]) -> str:
    """Hardware and time of these studies and of the studies that they need, with all seeds."""
    runs = runs_of([one.study for one in shown])
    return f"{CORES}, {hours(sum(study.minutes for study, _ in runs))}"


def _ours(row: Row, results: Mapping[int, Results]) -> str:
    if row.chip_hours:
        return f"not run: needs {row.chip_hours:,.0f} chip-hours"
    if row.drawn:
        return f"[{row.drawn}.png](figures/{row.drawn}.png)"
    found = {one: rows_of(results, one.study, one.stage) for one in row.shown}
    if not any(found.values()):
        return f"not run: needs {_time(row.shown)}"

    def part(one: Shown, rows: Sequence[Results]) -> str:
        if not rows:
            return f"{one.label} not run"
        return f"{one.label} ({len(rows)}) {', '.join(cell(rows, column) for column in row.columns)}"

    names = ", ".join(column[0] for column in row.columns)
    numbers = "; ".join(part(one, rows) for one, rows in found.items())
    return f"{names}: {numbers}. {_made([row for rows in found.values() for row in rows])}"


def _made(rows: Sequence[Results]) -> str:
    """Dates and commits of these rows."""
    dates = sorted({row["date"] for row in rows})
    commits = dict.fromkeys(f"`{row['commit'][:10]}`" for row in rows)
    return f"{' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, {', '.join(commits)}"


def studies_markdown(results: Mapping[int, Results]) -> str:
    """The scores of every study that has been run: after RL, and for the demo also after the cold start."""
    lines = []
    for study in STUDIES:
        for stage, label in (("after_sft", "no RL"), ("after_rl", "")):
            rows = rows_of(results, study.name, stage)
            is_last = stage == "after_rl" or not rows_of(results, study.name, "after_rl")
            if not rows or not (is_last or study.name == "async"):
                continue
            title = study.title + (f", {label}" if label and not is_last else "")
            cells = [cell(rows, column) for column in STUDY_COLUMNS]
            lines.append([title, f"{rows[0]['temperature']:g}", str(len(rows)), *cells, _made(rows)])
    heading = ["test problems, 1 sample each", "temperature", "seeds", *(c[0] for c in STUDY_COLUMNS), "run"]
    return markdown_table(heading, lines, 1)
