import math

import pytest

from lightning_losses.plots.seed_intervals import seed_intervals
from lightning_losses.plots.style import save_figure

LINES = {"cross-entropy": [(0.2, 0.05), (0.1, 0.02)], "mixup": [(0.3, math.nan), (0.05, math.nan)]}


def test_every_run_has_its_line_and_every_stage_its_marks(tmp_path):
    figure = seed_intervals({"ECE": LINES, "NLL": LINES}, stages=["before", "after"])
    assert [axis.get_xlabel() for axis in figure.axes] == ["ECE", "NLL"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(LINES)
    for order, container in enumerate(figure.axes[0].containers):
        line, _, (bars,) = container
        assert list(line.get_xdata()) == [means[order][0] for means in LINES.values()]
        widths = [float(end[0] - start[0]) for start, end in bars.get_segments()]
        expected = [0.0 if math.isnan(means[order][1]) else 2 * means[order][1] for means in LINES.values()]
        assert widths == pytest.approx(expected)
    # The first run is on top.
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize(("panels", "stages"), [({}, ["before"]), ({"ECE": LINES}, [])])
def test_nothing_to_draw_is_refused(panels, stages):
    with pytest.raises(ValueError, match="seed_intervals"):
        seed_intervals(panels, stages=stages)
