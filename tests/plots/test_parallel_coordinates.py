import pytest

from lightning_losses.plots.parallel_coordinates import Coordinate, parallel_coordinates
from lightning_losses.plots.style import COLORS


def heights(figure):
    """By line, from the worst to the best, the heights at which it crosses the axes."""
    return [[height for _, height in segment] for segment in figure.axes[0].collections[0].get_segments()]


def test_lines_cross_the_axes_where_their_values_are():
    rates = Coordinate("lr", [0.1, 0.001, 0.01], logarithmic=True)
    widths = Coordinate("width", [4.0, 8.0, 6.0])
    figure = parallel_coordinates([rates, widths], [3.0, 1.0, 2.0], score="loss")
    # The worst first; a small score is good, and good is up.
    assert heights(figure) == [
        pytest.approx([1.0, 0.0, 0.0]),
        pytest.approx([0.5, 0.5, 0.5]),
        pytest.approx([0.0, 1.0, 1.0]),
    ]
    best = next(line for line in figure.axes[0].lines if line.get_color() == COLORS[1])
    assert list(best.get_ydata()) == pytest.approx([0.0, 1.0, 1.0])


def test_where_larger_is_better_large_is_up():
    figure = parallel_coordinates([Coordinate("x", [0.0, 1.0])], [0.2, 0.9], score="accuracy", smaller_is_better=False)
    assert heights(figure)[-1] == pytest.approx([1.0, 1.0])


def test_choices_have_a_place_each_and_lines_of_one_are_apart():
    figure = parallel_coordinates([Coordinate("objective", ["kd", "nkd", "kd"])], [1.0, 2.0, 3.0], score="loss")
    worst, middle, best = (line[0] for line in heights(figure))
    assert 0 < best < worst < 0.5 < middle < 1
    labels = {text.get_text() for text in figure.axes[0].texts}
    assert {"kd", "nkd"} <= labels


def test_a_run_without_a_value_passes_below():
    figure = parallel_coordinates([Coordinate("x", [0.0, None, 1.0])], [1.0, 2.0, 3.0], score="loss")
    assert heights(figure)[1][0] < 0
    assert "not used" in {text.get_text() for text in figure.axes[0].texts}


def test_one_value_stands_in_the_middle():
    figure = parallel_coordinates([Coordinate("x", [3.0, 3.0])], [1.0, 1.0], score="loss")
    assert heights(figure)[0] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("coordinates", "scores"), [([], [1.0]), ([Coordinate("x", [1.0])], [1.0, 2.0])])
def test_values_that_do_not_fit_are_refused(coordinates, scores):
    with pytest.raises(ValueError, match="with a value for every run"):
        parallel_coordinates(coordinates, scores, score="loss")
