import math

import matplotlib as mpl
import pytest

from lightning_losses.plots.effects import effects
from lightning_losses.plots.style import COLORS

RUNS = {"nkd": (-1.0, -2.0, 0.0), "kd": (8.0, 7.0, 9.0), "broken": (math.nan,) * 3, "dkd": (-3.0, -4.0, -2.0),
        "two seeds": (1.0, math.nan, math.nan)}  # fmt: skip


def test_effects_are_sorted_coloured_by_what_is_sure_and_legible():
    figure = effects(RUNS, label="accuracy against ce, points", note="mean and 95% interval")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["kd", "two seeds", "nkd", "dkd"]
    assert [text.get_text() for text in axis.texts] == ["+8.0 ± 1.0", "+1.0", "−1.0 ± 1.0", "−3.0 ± 1.0"]
    colors = [mpl.colors.to_hex(container.lines[0].get_color()).upper() for container in axis.containers]
    assert colors == [COLORS[0], "#777777", "#777777", COLORS[1]]
    # Of an error less is better, and on top.
    (axis,) = effects(RUNS, label="ECE against ce, points", better="lower").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["dkd", "nkd", "two seeds", "kd"]
    assert [mpl.colors.to_hex(one.lines[0].get_color()).upper() for one in axis.containers][::3] == [
        COLORS[0],
        COLORS[1],
    ]
    # By a stricter test than the intervals.
    (axis,) = effects(RUNS, label="accuracy against ce, points", significant={"kd"}).axes
    colors = [mpl.colors.to_hex(container.lines[0].get_color()).upper() for container in axis.containers]
    assert colors == [COLORS[0], "#777777", "#777777", "#777777"]
    # The first is on top.
    bottom, top = axis.get_ylim()
    assert bottom > top
    texts = [*axis.texts, *axis.get_yticklabels(), *axis.get_xticklabels(), axis.xaxis.label, axis.title]
    # Shrunk to a column of 3.4 inches.
    assert min(text.get_fontsize() for text in texts) * 3.4 / figure.get_figwidth() >= 7
    # Of numbers in small units.
    (axis,) = effects({"kd": (-0.0123, -0.0143, -0.0103)}, label="NLL against ce", digits=3).axes
    assert [text.get_text() for text in axis.texts] == ["−0.012 ± 0.002"]
    with pytest.raises(ValueError, match="no run with a finite mean came"):
        effects({"kd": (math.nan,) * 3}, label="accuracy")


@pytest.mark.parametrize("name", ["kd", "asymmetric_loss_of_a_long_name"])
def test_a_long_label_stays_within_the_picture(name):
    runs = {name: (8.0, 7.0, 9.0), "worse": (-30.0, -32.0, -28.0)}
    figure = effects(runs, label="mean average precision against binary cross-entropy, points", note="mean\n20 seeds")
    figure.draw_without_rendering()
    (axis,) = figure.axes
    for text in (axis.xaxis.label, axis.title, *axis.texts):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    # Lines that were broken on purpose stay.
    assert axis.get_title(loc="left") == "mean\n20 seeds"
