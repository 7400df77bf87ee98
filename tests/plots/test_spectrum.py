"""The picture of the Hessian: where 2 / learning rate stands."""

import math

import pytest

from lightning_losses.plots.grokking import Curve, grokking_curves, spectrum_panels

VALUES = {"largest": [1.0, 2.0], "smallest": [-0.5, -0.1], "trace": [4.0, 5.0], "trace_error": [0.5, 5.5]}


@pytest.mark.parametrize("edge", [3.0, 40.0])
def test_every_panel_shows_the_edge(edge):
    sharpness, trace, density = spectrum_panels(
        [0, 10], {**VALUES, "edge": [edge, edge]}, nodes=[-0.1, 0.5, 2.0], weights=[0.2, 0.5, 0.3]
    ).axes
    for axis in (sharpness, trace):
        assert [edge, edge] in [list(line.get_ydata()) for line in axis.lines]
    # Beyond three times the largest eigenvalue it is a note, so that the spectrum keeps its room.
    assert ([edge, edge] in [list(line.get_xdata()) for line in density.lines]) == (edge == 3)
    assert [text.get_text() for text in density.texts] == ([] if edge == 3 else ["2 / learning rate:\n40 →"])
    assert density.get_xlim()[1] < 4


@pytest.mark.parametrize(("loss", "scale"), [(math.nan, "linear"), (0.0, "linear"), (0.5, "log")])
def test_only_losses_that_have_a_logarithm_are_drawn_on_a_logarithmic_axis(loss, scale):
    figure = grokking_curves([Curve("train", [0], [loss], "train"), Curve("test", [6], [loss])], measure="loss")
    assert figure.axes[0].get_yscale() == scale
    figure.draw_without_rendering()
