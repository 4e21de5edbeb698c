"""Metrics files, the progress display, the table of results."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto import event_pb2

from asyncthink_jax.files import FileError, unsealed
from asyncthink_jax.storage import metrics
from asyncthink_jax.storage.metrics import MetricsWriter, Progress, read_metrics


def test_a_line_holds_stage_step_and_every_number(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("sft", 1, {"loss": jnp.float32(0.5), "tokens": np.int64(7), "done": True})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"stage": "sft", "step": 1, "loss": 0.5, "tokens": 7, "done": 1}
    ]


def test_a_number_that_is_not_finite_is_null(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("rl", 1, {"reward": float("nan"), "loss": jnp.inf})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert unsealed(json.loads(line)) == {"stage": "rl", "step": 1, "reward": None, "loss": None}
    assert "NaN" not in line


def test_a_line_is_in_the_file_before_the_next_step(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write("sft", 1, {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    writer.close()


def test_a_resumed_run_cuts_off_what_came_after_its_checkpoint(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("sft", 1, {"loss": 1.0})
        position = writer.position
        writer.write("sft", 2, {"loss": 9.0})
        writer.write("sft", 3, {"loss": 9.0})
    with MetricsWriter(tmp_path, position) as writer:
        assert writer.position == position
        writer.write("sft", 2, {"loss": 0.5})
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5)]


def test_a_resumed_run_writes_the_file_of_an_undisturbed_one(tmp_path):
    def run(folder, steps, position=0):
        with MetricsWriter(folder, position) as writer:
            for step in steps:
                writer.write("rl", step, {"reward": step / 7})
                position = writer.position
        return position

    run(tmp_path / "a", range(1, 6))
    position = run(tmp_path / "b", range(1, 4))
    run(tmp_path / "b", range(4, 5), position)  # lost: its checkpoint was never finished
    run(tmp_path / "b", range(4, 6), position)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()


def test_a_new_run_in_an_old_folder_starts_anew(tmp_path):
    for loss in (1.0, 2.0):
        with MetricsWriter(tmp_path) as writer:
            writer.write("sft", 1, {"loss": loss})
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2.0]


def test_a_resumed_run_goes_on_where_the_file_was_removed(tmp_path):
    with MetricsWriter(tmp_path, 1000) as writer:
        writer.write("sft", 5, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5]


def test_a_last_line_cut_short_by_a_kill_is_not_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "sft", "step": 1}\n{"stage": "sf')
    assert [line["step"] for line in read_metrics(path)] == [1]


def scalars(folder) -> dict[tuple[str, int], float]:
    """(tag, step) -> value of all event files in a folder, read by the frames of their format."""
    values = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            data = data[12 + length + 4 :]
    return values


def test_every_number_is_in_the_event_file_of_its_stage(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("sft", 1, {"loss": 2.0})
        writer.write("rl", 1, {"reward": 0.5, "loss": float("nan")})
    assert scalars(tmp_path / "tensorboard" / "sft") == {("loss", 1): 2.0}
    assert scalars(tmp_path / "tensorboard" / "rl") == {("reward", 1): 0.5}


NUMBERS = {
    "reward": 0.81234,
    "accuracy": 0.7551,
    "critical_path": 163.4,
    "concurrency": 0.614,
    "format_error": 0.0123,
    "tokens_per_second": 12345.6,
}


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def shown(updates, interval_s=0.0) -> list[str]:
    """The plain lines that are printed for updates (seconds, stage, step)."""
    output, clock = io.StringIO(), Clock()
    console = Console(file=output, width=80)
    with Progress({"sft": 100, "rl": 80}, console=console, interval_s=interval_s, now=clock) as progress:
        for clock.seconds, stage, step in updates:
            progress.update(stage, step, NUMBERS)
    return output.getvalue().splitlines()


def test_a_plain_line_shows_all_there_is_to_know():
    (line,) = shown([(0, "rl", 1)])
    for part in ["rl 1/80", "reward 0.812", "accuracy 75.5%", "critical path 163", "concurrency 0.61"]:
        assert part in line
    for part in ["format errors 1.2%", "tokens/s 12,346"]:
        assert part in line


def test_the_time_left_follows_from_the_steps_done_by_this_process():
    lines = shown([(100, "rl", 60), (102, "rl", 61), (112, "rl", 66)])
    assert "left" not in lines[0]
    assert lines[1].endswith("0:38 left")
    assert lines[2].endswith("0:28 left")


def test_plain_lines_are_few_but_the_first_and_last_of_a_stage_are_there():
    updates = [(step / 10, "sft", step) for step in range(1, 101)] + [(10.1, "rl", 1)]
    lines = shown(updates, interval_s=5.0)
    assert [line.split(" |")[0] for line in lines] == ["sft 1/100", "sft 51/100", "sft 100/100", "rl 1/80"]


def test_a_terminal_gets_one_live_line():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=200)
    with Progress({"rl": 80}, console=console) as progress:
        progress.update("rl", 40, NUMBERS)
        progress.say("checkpoint")
    assert "40/80" in output.getvalue() and "checkpoint" in output.getvalue()


def scores(all_correct, **more):
    return {
        "n": 600,
        "all_correct": all_correct,
        "at_least": {"1": 0.99, "2": 0.95, "3": 0.9, "4": all_correct},
        "critical_path": 163.42,
        "concurrency": 0.634,
        "format_error": 0.01,
        "reward": 0.8,
        "stderr": {"all_correct": 0.018},
        "temperature": 0.7,
        "split": "test",
    } | more


RESULTS = {
    "commit": "0123456789abcdef",
    "date": "2025-11-24",
    "hardware": "2 CPU cores",
    "wall_clock_s": {"setup": None, "sft": 200, "rl": 3700.2, "eval": 33},
    "paradigms": {
        "something_new": {"after_sft": scores(0.1)},
        "oracle": {"after_sft": scores(0.886)},
        "control": {"after_sft": scores(0.34)},
        "parallel": {"after_rl": scores(0.5), "after_sft": scores(0.2)},
        "sequential": {"after_rl": scores(0.5), "after_sft": scores(0.2)},
        "async": {"after_rl_greedy": scores(0.9, temperature=0.0), "after_rl": scores(0.85), "after_sft": scores(0.29)},
    },
}


def test_the_table_has_a_row_for_each_paradigm_and_stage_in_order():
    _, rows = metrics.result_rows(RESULTS)
    assert [(row[0].split(" (")[0], row[1]) for row in rows] == [
        ("async", "SFT"),
        ("async", "SFT + RL"),
        ("async", "SFT + RL, greedy"),
        ("sequential", "SFT"),
        ("sequential", "SFT + RL"),
        ("parallel", "SFT"),
        ("parallel", "SFT + RL"),
        ("control", "SFT"),
        ("oracle", "SFT"),
        ("something_new", "SFT"),
    ]


def test_a_row_shows_shares_in_percent_with_standard_error_and_temperature():
    header, rows = metrics.result_rows(RESULTS)
    row = dict(zip(header, rows[1], strict=True))
    assert row["all correct"] == "85.0 ± 1.8"
    assert (row["≥ 1"], row["≥ 3"], "≥ 4" in row) == ("99.0", "90.0", False)
    assert (row["critical path"], row["η/c"], row["temperature"]) == ("163.4", "0.63", "0.7")
    assert (row["problems"], row["samples"]) == ("600", "1")


@pytest.mark.parametrize("part", ["test split", "commit 0123456789", "2 CPU cores", "2025-11-24", "rl 1:01:40"])
def test_the_caption_says_what_the_numbers_are_of(part):
    assert part in metrics.caption(RESULTS)


def test_a_column_without_numbers_is_left_out():
    header, rows = metrics.result_rows(RESULTS)
    assert "wrong" not in header
    assert all(len(row) == len(header) for row in rows)


def test_parts_of_a_split_and_the_average_over_samples_have_rows_and_a_column():
    part = {**scores(0.4), "avg@16": 0.4, "stderr": {"avg@16": 0.02}}
    whole = {**scores(0.5), "avg@16": 0.5, "groups": {"aime24": part}}
    header, rows = metrics.result_rows({"paradigms": {"async": {"after_rl": whole, "after_rl_greedy": scores(0.6)}}})
    column = header.index("avg@16")
    assert [(row[0].strip(), row[column]) for row in rows][1:] == [("aime24", "40.0 ± 2.0"), (rows[0][0], "")]
    assert rows[0][column] == "50.0"


def test_the_table_of_a_run_that_has_only_begun_can_be_printed():
    output = io.StringIO()
    results = {"paradigms": {"async": {"after_sft": scores(0.3), "after_rl": None}}}
    metrics.print_results(results, Console(file=output))
    assert "30.0 ± 1.8" in output.getvalue()


def test_the_markdown_table_is_well_formed():
    header, rows = metrics.result_rows(RESULTS)
    lines = metrics.markdown_table(header, rows, left=2).splitlines()
    assert len(lines) == 12
    assert len({line.count("|") for line in lines}) == 1
    assert lines[1].startswith("| --- | --- | ---: |")


def test_a_digit_that_is_another_one_is_known(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write("sft", step, {"loss": 0.25})
    path = tmp_path / "metrics.jsonl"
    assert [line["loss"] for line in read_metrics(path)] == [0.25] * 3
    path.write_text(path.read_text().replace("0.25", "0.35", 1))
    with pytest.raises(FileError, match=r"metrics.jsonl line 1 is not what was written"):
        read_metrics(path)
