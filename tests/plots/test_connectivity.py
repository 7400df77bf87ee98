"""The pictures of connectivity and of the learning rate: what they draw."""

import math

import pytest

from lightning_losses.plots.connectivity import connectivity_panels, learning_rate_curves, learning_rate_panels


def test_every_line_is_drawn():
    barriers, along = connectivity_panels([100, 200], [0.3, 0.0], [[1.0, 1.2, 0.8], [0.8, 0.7, 0.6]]).axes[:2]
    assert barriers.lines[0].get_ydata().tolist() == [0.3, 0.0]
    assert [line.get_ydata().tolist() for line in along.lines] == [[1.0, 1.2, 0.8], [0.8, 0.7, 0.6]]


def test_a_loss_that_is_not_finite_leaves_the_rest_to_be_drawn():
    figure = connectivity_panels([100, 200], [math.inf, 0.2], [[1.0, math.inf, 0.8], [0.8, 0.7, 0.6]])
    assert figure.axes[0].get_ylim()[0] == pytest.approx(-0.006)


def test_runs_that_diverged_are_drawn_at_the_untrained_loss():
    finals = {1e-1: math.nan, 1e-3: 0.5, 1e-2: 0.4}
    axis = learning_rate_curves({"plain": finals}, initial_loss=2.3).axes[0]
    assert axis.lines[0].get_xdata().tolist() == [1e-3, 1e-2, 1e-1]
    assert axis.lines[0].get_ydata().tolist() == [0.5, 0.4, 2.3]
    assert [line.get_marker() for line in axis.lines[1:4]] == ["o", "o", "x"]
    # The mean of what each loses against 0.4: (0.1 + 0 + 1.9) / 3.
    assert axis.get_legend().get_texts()[0].get_text() == "plain: sensitivity 0.667"


def test_no_models_are_refused():
    with pytest.raises(ValueError, match="no models"):
        learning_rate_curves({}, initial_loss=1.0)


def test_seeds_are_a_mean_in_a_band_and_each_has_its_own_start():
    finals = {"plain": {1e-3: [0.5, 0.7], 1e-2: [0.4, 9.0]}, "held": {1e-3: [0.6, 0.6], 1e-2: [0.5, 0.5]}}
    axis = learning_rate_curves(finals, {"plain": [2.0, 2.2], "held": [2.0, 2.0]}).axes[0]
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([0.6, 1.3])
    assert {tuple(point) for point in axis.collections[0].get_paths()[0].vertices.tolist()} == {
        (1e-3, 0.5), (1e-3, 0.7), (1e-2, 0.4), (1e-2, 2.2)
    }  # fmt: skip
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    # Of the seeds: (0.1 + 0) / 2 and (0 + 1.5) / 2.
    assert labels == ["plain: sensitivity 0.4", "held: sensitivity 0.05"]
    assert [line.get_marker() for line in axis.lines[1:3]] == ["o", "x"]


def test_an_untrained_loss_that_is_far_off_is_a_note():
    near, far = (learning_rate_curves({"plain": {1e-3: 0.5, 1e-2: 0.7}}, level).axes[0] for level in (0.8, 9.0))
    assert near.get_ylim()[1] > 0.8 and "untrained" in [text.get_text() for text in near.texts]
    assert far.get_ylim()[1] < 1 and far.get_legend().get_title().get_text() == "untrained: 9"


def test_seeds_that_are_missing_are_refused():
    with pytest.raises(ValueError, match="plain has 2, 1 losses"):
        learning_rate_curves({"plain": {1e-3: [0.5, 0.6], 1e-2: [0.5]}}, {"plain": [1.0, 1.0]})


def test_trials_are_drawn_as_shares_of_the_best_gain():
    losses = [[0.9, 0.5, math.nan], [0.4, 0.45, 0.7]]
    over, along = learning_rate_panels([0, 100], [0.3, 0.1], [0.1, 1, 10], losses, [1.0, 0.5]).axes[:2]
    assert over.lines[0].get_ydata().tolist() == [0.3, 0.1]
    drawn = [line for line in along.lines if len(line.get_xdata()) == 3]
    assert [line.get_ydata() for line in drawn] == [pytest.approx([0.2, 1, 0]), pytest.approx([1, 0.5, 0])]
    marks = {line.get_marker(): [] for line in along.lines}
    for line in along.lines:
        marks[line.get_marker()] += list(line.get_xdata())
    assert marks["o"] == [1, 0.1] and marks["x"] == [10, 10]
