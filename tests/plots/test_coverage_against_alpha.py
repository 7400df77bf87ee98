import pytest
import torch

from lightning_losses.calibrators import APS, LAC
from lightning_losses.metrics import set_coverage, set_size
from lightning_losses.plots.coverage_against_alpha import coverage_against_alpha, expected_coverage


def test_the_lines_are_coverage_and_size():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(200, 4, generator=generator), torch.randint(0, 4, (200,), generator=generator)
    methods = {"lac": LAC().fit(logits, target), "aps": APS().fit(logits, target)}
    figure = coverage_against_alpha(methods, logits, target, alphas=[0.1, 0.5], title="a title")
    left, right = figure.axes
    _, *covered = left.lines
    for line, size, method in zip(covered, right.lines, methods.values(), strict=True):
        sets = [method(logits, alpha) for alpha in (0.5, 0.1)]
        assert line.get_xdata() == pytest.approx([50, 90])
        assert line.get_ydata() == pytest.approx([100 * float(set_coverage(each, target)) for each in sets])
        assert size.get_ydata() == pytest.approx([float(set_size(each, target)) for each in sets])
    assert left.get_ylim()[1] == 100
    assert [left.get_xlabel(), left.get_ylabel(), right.get_xlabel()] == ["asked for, %", "coverage, %", "asked for, %"]
    with pytest.raises(ValueError) as caught:
        coverage_against_alpha({}, logits, target)
    assert str(caught.value) == (
        "coverage_against_alpha: 0 methods, 25 alphas and 200 rows came; give at least one of each."
    )


def test_the_expected_range_is_that_of_simulated_fits():
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(2000):
        threshold = torch.rand(49, generator=generator).sort().values[39]
        shares.append((torch.rand(100, generator=generator) <= threshold).double().mean())
    low, high = torch.stack(shares).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert expected_coverage(49, 100, 0.2) == pytest.approx((low, high), abs=0.02)
