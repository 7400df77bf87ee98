from lightning_losses.plots.stream_errors import stream_errors


def test_one_bad_method_does_not_squeeze_the_others():
    figure = stream_errors({"none": [0.9, 0.8], "tent": [0.05, 0.0]}, ["fog", "noise"])
    (axis,) = figure.axes
    assert axis.get_yscale() == "log"
    # An error of 0 has no place on the scale.
    assert list(axis.lines[1].get_ydata()) == [5.0, 1.0]
    figure.draw_without_rendering()
    low, high = axis.get_ylim()
    assert {"1", "10", "50"} <= {tick.label1.get_text() for tick in axis.yaxis.get_major_ticks()} and low <= 1.0 < high
