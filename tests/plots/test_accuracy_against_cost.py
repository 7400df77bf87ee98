import math

import pytest

from lightning_losses.plots.accuracy_against_cost import accuracy_against_cost, best_for_their_cost
from lightning_losses.plots.style import save_figure


def test_the_best_are_those_that_no_other_beats_in_both():
    points = {"cheap": (1, 80), "dear": (9, 95), "between": (3, 90), "beaten": (4, 85), "tie": (3, 90)}
    points = {run: (*point, math.nan, math.nan) for run, point in points.items()}
    assert best_for_their_cost(points) == ["cheap", "between", "dear"]


def test_of_many_runs_the_best_and_the_reference_are_named(tmp_path):
    points = {f"run {k}": (10.0 - k, 80.0 + k % 3, math.nan, math.nan) for k in range(10)}
    points["diverged"] = (1.0, math.nan, math.nan, math.nan)
    figure = accuracy_against_cost({"one": points, "two": points}, reference="run 0")
    named = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert named == {"run 9", "run 8", "run 0"}
    assert [axis.get_title("left") for axis in figure.axes] == ["one", "two"]
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 10_000


def test_differences_within_noise_are_no_front():
    unsure = {"ce": (1.0, 90.0, 88.0, 92.0), "kd": (2.0, 91.0, 89.0, 93.0), "slow": (3.0, 95.0, 94.0, 96.0)}
    assert best_for_their_cost(unsure) == ["ce", "slow"]
    # Times of a shared machine vary by a fifth.
    assert best_for_their_cost({"ce": (1.0, 90.0, 89.0, 91.0), "kd": (1.2, 95.0, 94.0, 96.0)}) == ["kd"]


def test_a_point_far_off_leaves_the_axis_to_the_others_and_says_where_it_is():
    points = {f"run {k}": (1.0 + k, 90.0 + k % 3, math.nan, math.nan) for k in range(10)}
    points["low"] = (5.0, 10.0, math.nan, math.nan)
    # Neither worth its cost nor the least accurate.
    points["slow"] = (900.0, 91.0, math.nan, math.nan)
    points |= {f"more {k}": (1.5 + k, 90.0 + k % 3, math.nan, math.nan) for k in range(10)}
    (axis,) = accuracy_against_cost({"": points}, reference="run 0").axes
    assert axis.get_ylim()[0] > 85
    labels = {text.get_text() for text in axis.get_legend().get_texts()}
    assert {"low (5, 10, off the panel)", "slow (900, 91, off the panel)"} <= labels


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no panels"):
        accuracy_against_cost({})


def test_points_of_one_cost_stand_beside_each_other():
    points = {run: (cost, 80.0, 79.0, 81.0) for run, cost in (("a", 1.0), ("b", 1.0), ("c", 50.0))}
    (axis,) = accuracy_against_cost({"": points}).axes
    marks = {bar.get_label(): bar.lines[0].get_xdata()[0] for bar in axis.containers if bar.get_label() in points}
    assert marks["a"] < 1.0 < marks["b"] and marks["c"] == 50.0
    assert marks["b"] - marks["a"] == pytest.approx(0.03 * 49)
