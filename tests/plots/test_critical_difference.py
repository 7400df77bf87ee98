import pytest

from lightning_losses.plots.critical_difference import critical_difference, indistinguishable


def test_groups_are_the_largest_that_are_not_told_apart():
    assert indistinguishable([1.0, 1.2, 1.9, 2.0, 4.0], 1.0) == [(0, 2), (1, 3)]
    assert indistinguishable([1.0, 3.0], 1.0) == []
    assert indistinguishable([2.0, 2.0, 2.0], 0.5) == [(0, 2)]


def test_it_draws_every_run_and_a_bar_for_each_group():
    figure = critical_difference({"c": 2.9, "a": 1.2, "b": 1.9}, 0.8)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["a 1.20", "b 1.90", "c 2.90", "CD = 0.80"]
    bars = [line for line in axis.lines if line.get_linewidth() == 3]
    assert [tuple(bar.get_xdata()) for bar in bars] == [(1.2 - 0.03, 1.9 + 0.03)]


def test_one_run_is_refused():
    with pytest.raises(ValueError) as raised:
        critical_difference({"a": 1.0}, 1.0)
    assert str(raised.value) == "critical_difference: 1 runs came; give two or more."
