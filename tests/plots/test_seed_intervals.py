import math

import pytest

from lightning_losses.plots.seed_intervals import seed_intervals
from lightning_losses.plots.style import save_figure

NAN = math.nan
LINES = {"cross-entropy": [(0.2, 0.15, 0.25), (0.1, 0.0, 0.12)], "mixup": [(0.3, NAN, NAN), (0.05, NAN, NAN)]}


def test_every_run_has_its_line_and_every_stage_its_marks(tmp_path):
    figure = seed_intervals({"ECE": LINES, "NLL": LINES}, stages=["before", "after"])
    assert [axis.get_xlabel() for axis in figure.axes] == ["ECE", "NLL"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(LINES)
    for order, container in enumerate(figure.axes[0].containers):
        line, _, (bars,) = container
        assert list(line.get_xdata()) == [means[order][0] for means in LINES.values()]
        drawn = [(float(start[0]), float(end[0])) for start, end in bars.get_segments()]
        (_, *ends), (alone, _, _) = (means[order] for means in LINES.values())
        # From end to end, though the mean is not in their middle; of what has no interval nothing.
        assert drawn == [pytest.approx(ends), pytest.approx([alone, alone])]
    # The first run is on top.
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize(("panels", "stages"), [({}, ["before"]), ({"ECE": LINES}, [])])
def test_nothing_to_draw_is_refused(panels, stages):
    with pytest.raises(ValueError, match="seed_intervals"):
        seed_intervals(panels, stages=stages)
