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


def test_error_bars_are_the_standard_error_of_a_share():
    assert figures._errors({"n": 400}, np.array([64.0])) == pytest.approx([2.4])


def test_curves_are_drawn_of_what_was_measured_only():
    figure = figures.learning_curves(LINES)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["cold start: loss (nats a token)", "accuracy (%)"]
    labels = figure.axes[1].get_legend_handles_labels()[1]
    assert labels == ["all correct", "all correct, validation"]


def test_smoothing_keeps_length_and_mean_of_a_constant_and_uses_neighbours_only():
    np.testing.assert_allclose(figures.smoothed(np.full(50, 3.0)), 3.0)
    spike = np.zeros(100)
    spike[50] = 11.0
    smooth = figures.smoothed(spike)
    assert np.flatnonzero(np.abs(smooth) > 1e-9).tolist() == list(range(45, 56))
    assert smooth[50] == pytest.approx(1.0)


def test_all_figures_of_a_run_are_written(tmp_path):
    paths = figures.save_figures(tmp_path / "figures", lines=LINES, results=RESULTS)
    names = ["accuracy_against_path.png", "at_least.png", "learning_curves.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    assert sorted(paths) == [str(tmp_path / "figures" / name) for name in names]


@pytest.mark.parametrize("some", [{}, {"lines": LINES[:1]}, {"results": {"paradigms": {}}}])
def test_a_run_that_has_only_begun_gets_the_figures_it_has_numbers_for(tmp_path, some):
    assert len(figures.save_figures(tmp_path, **some)) == ("lines" in some)
