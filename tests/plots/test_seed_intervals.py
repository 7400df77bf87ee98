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


def test_a_run_far_off_leaves_the_axis_to_the_others_and_says_its_number():
    lines = {f"run {k}": [(5.0 + k, 4.0 + k, 6.0 + k)] for k in range(10)} | {"far": [(80.0, 70.0, 90.0)]}
    (axis,) = seed_intervals({"ECE (%)": lines}, stages=["as trained"]).axes
    assert axis.get_xlim()[1] < 20 and [text.get_text() for text in axis.texts] == ["80 →"]
    # Others' bars, or an axis from 0, reach it: it has its own place.
    for place, end, start in ((16.0, 22.0, 5.0), (1.0, 9.2, 4.2)):
        lines = {f"run {k}": [(start + k * 0.5, start, end)] for k in range(11)} | {"far": [(place, NAN, NAN)]}
        (axis,) = seed_intervals({"ECE (%)": lines}, stages=["as trained"]).axes
        assert not axis.texts and axis.containers[0].lines[0].get_xdata()[-1] == place
    # Seven inches at most: in a page's column its text stays as large.
    assert seed_intervals({str(k): lines for k in range(5)}, stages=["as trained"]).get_size_inches()[0] <= 7


@pytest.mark.parametrize("panels", [1, 4])
def test_a_long_label_stays_within_the_picture(panels):
    lines = {"binary cross-entropy, long": [(50.0, 48.0, 52.0)], "nt_xent": [(49.0, 48.0, 50.0)]}
    names = ["mean average precision (%)", "linear probe's accuracy (%)", "NLL", "ECE (%)"]
    figure = seed_intervals(dict.fromkeys(names[:panels], lines), stages=["as trained"])
    figure.canvas.draw()
    for axis in figure.axes:
        label = axis.xaxis.label.get_window_extent()
        assert label.x0 >= 0 and label.x1 <= figure.bbox.width


def test_only_what_is_drawn_is_in_the_legend():
    names = ["as trained", "after temperature scaling"]
    assert seed_intervals({"MRR": {"ce": [(0.3, 0.2, 0.4)]}}, stages=names).legends == []
    figure = seed_intervals({"ECE": LINES}, stages=names)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    # A single panel is narrow: one name below the other, none beyond the figure's edge.
    figure.draw_without_rendering()
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in legend.get_texts())


def test_a_point_at_nothing_is_drawn_whole():
    figure = seed_intervals({"KL": {"base": [(0.0, 0.0, 0.0)], "dpo": [(7.8, 7.3, 8.3)]}}, stages=["after"])
    (axis,) = figure.axes
    assert axis.get_xlim()[0] == 0
    artists = axis.containers[0].get_children()
    assert artists and not any(artist.get_clip_on() for artist in artists)
    # Nor is the axis' line over it.
    assert all(artist.get_zorder() > axis.spines["left"].get_zorder() for artist in artists)
    # A stage without a point takes no space.
    assert not any(artist.get_in_layout() for artist in artists)
    # The whole point is within the picture.
    figure.draw_without_rendering()
    marker = axis.containers[0].lines[0].get_window_extent()
    assert marker.x0 >= 0 and marker.x1 <= figure.bbox.x1


@pytest.mark.parametrize(("panels", "stages"), [({}, ["before"]), ({"ECE": LINES}, [])])
def test_nothing_to_draw_is_refused(panels, stages):
    with pytest.raises(ValueError, match="seed_intervals"):
        seed_intervals(panels, stages=stages)
