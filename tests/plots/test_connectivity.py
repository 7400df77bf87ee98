"""The pictures of connectivity and of the learning rate: what they draw."""

import math

import pytest

from lightning_losses.plots.connectivity import connectivity_panels, learning_rate_curves


def test_every_line_is_drawn():
    barriers, along = connectivity_panels([100, 200], [0.3, 0.0], [[1.0, 1.2, 0.8], [0.8, 0.7, 0.6]]).axes[:2]
    assert barriers.lines[0].get_ydata().tolist() == [0.3, 0.0]
    assert [line.get_ydata().tolist() for line in along.lines] == [[1.0, 1.2, 0.8], [0.8, 0.7, 0.6]]


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
