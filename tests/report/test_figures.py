"""Figures are drawn from what there is, and show the numbers they are given."""

import numpy as np
import pytest

from asyncthink_jax.report import figures


def scores(all_correct, path, n=400):
    at_least = {"1": 0.9, "2": 0.8, "3": 0.7, "4": all_correct}
    return {
        "n": n,
        "all_correct": all_correct,
        "at_least": at_least,
        "critical_path": path,
        "concurrency": 0.5,
        "format_error": 0.0,
        "reward": 0.5,
        "stderr": {},
    }


RESULTS = {
    "paradigms": {
        "oracle": {"after_sft": scores(0.8, 200)},
        "new": {"after_sft": scores(0.1, 90)},
        "async": {"after_sft": scores(0.3, 180), "after_rl": scores(0.64, 160), "after_rl_greedy": scores(0.9, 170)},
        "sequential": {"after_sft": scores(0.2, 400), "after_rl": None},
        "parallel": {"after_sft": None, "after_rl": None},
    }
}
LINES = [
    *[{"stage": "sft", "step": step, "loss": 1 / step} for step in range(1, 40)],
    *[{"stage": "rl", "step": step, "all_correct": step / 30, "accuracy": None} for step in range(1, 31)],
    {"stage": "validation", "step": 10, "all_correct": 0.5},
]


def bar_heights(figure) -> dict[str, list[float]]:
    (axes,) = figure.axes
    return {
        bars.get_label(): [round(bar.get_height(), 6) for bar in bars]
        for bars in axes.containers
        if hasattr(bars, "patches") and bars.get_label() and bars.patches
    }


def test_bars_show_the_share_with_at_least_a_correct_after_the_last_stage():
    heights = bar_heights(figures.at_least_bars(RESULTS))
    assert heights["async"] == [64.0, 70.0, 80.0, 90.0]
    assert list(heights) == ["async", "sequential", "oracle", "new"]


def test_error_bars_are_the_standard_errors_of_the_results_and_none_where_there_are_none():
    known = scores(0.8, 1600) | {"stderr": {f"at_least/{count}": 0.01 * count for count in range(1, 5)}}
    figure = figures.at_least_bars({"paradigms": {"async": {"after_rl": known}, "new": {"after_rl": scores(0.8, 400)}}})
    (axes,) = figure.axes
    lengths = [np.ptp(lines.get_segments(), axis=1)[:, 1] / 2 for lines in axes.collections]
    np.testing.assert_allclose(lengths, [[4.0, 3.0, 2.0, 1.0], [0.0] * 4], atol=1e-9)


def test_curves_are_drawn_of_what_was_measured_only():
    figure = figures.learning_curves(LINES)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["cold start: loss (nats a token)", "accuracy (%)"]
    labels = figure.axes[1].get_legend_handles_labels()[1]
    assert labels == ["all correct", "all correct, cold start", "all correct, validation"]


def test_smoothing_keeps_length_and_mean_of_a_constant_and_uses_neighbours_only():
    np.testing.assert_allclose(figures.smoothed(np.full(50, 3.0)), 3.0)
    spike = np.zeros(100)
    spike[50] = 11.0
    smooth = figures.smoothed(spike)
    assert np.flatnonzero(np.abs(smooth) > 1e-9).tolist() == list(range(45, 56))
    assert smooth[50] == pytest.approx(1.0)


def test_runs_that_are_compared_are_dashed_and_have_a_name_each():
    others = {name: [line | {"loss": 3.0, "all_correct": 0.1} for line in LINES] for name in ("one", "two $x$")}
    figure = figures.learning_curves(LINES, others)
    dashed = [
        line for axes in figure.axes for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())
    ]
    assert len(dashed) == 4 and len({line.get_color() for line in dashed}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two \uff04x\uff04"]


def test_the_cold_start_is_marked_at_the_first_iteration_where_there_was_one():
    with_one, without = (figures.learning_curves(LINES, cold_start=cold_start) for cold_start in (True, False))
    (mark,) = [line for line in with_one.axes[1].lines if line.get_marker() == "D"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (1, pytest.approx(100 / 30))
    assert not [line for line in without.axes[1].lines if line.get_marker() == "D"]
    resumed = figures.learning_curves(LINES[45:])
    assert not [line for axes in resumed.axes for line in axes.lines if line.get_marker() == "D"]


def test_the_frontier_goes_through_what_nothing_beats_in_both():
    points = [(100, 50.0), (90, 40.0), (120, 50.0), (130, 80.0), (95, 30.0), (90, 10.0), (200, 79.9)]
    assert figures.frontier(points) == [(90, 40.0), (100, 50.0), (130, 80.0)]


def test_every_paradigm_checkpoint_and_validation_is_a_point():
    lines = [{"stage": "validation", "step": 3, "all_correct": 0.5, "critical_path": 150}]
    (axes,) = figures.accuracy_against_path(RESULTS, lines).axes
    marks = [line for line in axes.lines if line.get_gid()]
    found = sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in marks)
    assert found == [(90, 10), (150, 50), (160, 64), (170, 90), (180, 30), (200, 80), (400, 20)]


@pytest.mark.parametrize("rows", [6, 7])
def test_names_stand_beside_points_until_they_would_lie_over_each_other(rows):
    one = {"critical_path": 100.0, "all_correct": 0.5, "n": 10}
    figure = figures.accuracy_against_path({"paradigms": {f"row {n}": {"after_rl": one} for n in range(rows)}})
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    told = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    if rows == 6:
        assert texts == [f"row {n}" for n in range(rows)] and not any("row" in text for text in told)
    else:
        assert texts == [str(n + 1) for n in range(rows)]
        assert [text for text in told if "row" in text] == [f"{n + 1}  row {n}" for n in range(rows)]


def test_rows_with_names_of_their_own_have_colours_of_their_own():
    names = ["async", "sequential", "async, other", "sequential, other", "more"]
    assert len(set(figures._colors(names).values())) == 5
    assert len(figures._colors([f"row {n}" for n in range(20)])) == 20
