"""How often intervals of nominal 95 % hold the truth: 200 data sets of a calibrated model, and of one that is not."""

import pytest
import torch

from lightning_losses import metrics as M
from tests.metrics.draws import drawn

SETS, ROWS, CLASSES = 200, 400, 4
MANY = 100_000
METRICS = {
    "ece": lambda: M.ExpectedCalibrationError(inputs="logits", keep_rows=True),
    "ece_mass": lambda: M.ExpectedCalibrationError(inputs="logits", binning="mass", keep_rows=True),
    "rmsce": lambda: M.RMSCalibrationError(inputs="logits", keep_rows=True),
    "rmsce_debiased": lambda: M.RMSCalibrationError(inputs="logits", debiased=True, keep_rows=True),
    "classwise": lambda: M.ClasswiseCalibrationError(CLASSES, inputs="logits", keep_rows=True),
    "overconfidence": lambda: M.OverconfidenceError(inputs="logits", keep_rows=True),
    "brier": lambda: M.BrierScore(inputs="logits", keep_rows=True),
    "nll": lambda: M.NegativeLogLikelihood(inputs="logits", keep_rows=True),
}


def sample(rows, sharpness, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    return sharpness * logits, drawn(logits.softmax(-1), generator)


def truth(name, sharpness):
    if sharpness == 1 and name not in ("brier", "nll"):
        return 0.0
    metric = METRICS[name]()
    metric.update(*sample(MANY, sharpness, 10**6))
    return float(metric.compute())


@pytest.mark.parametrize("sharpness", [1.0, 2.5])
@pytest.mark.parametrize("name", METRICS)
def test_it_is_what_it_says(name, sharpness):
    expected, held = truth(name, sharpness), 0
    for seed in range(SETS):
        metric = METRICS[name]()
        metric.update(*sample(ROWS, sharpness, seed))
        low, high = metric.interval(resamples=100, seed=seed)
        assert 0 <= low <= metric.compute() <= high
        held += bool(low <= expected <= high)
    assert 0.9 <= held / SETS <= 0.99


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_it_is_what_it_says_of_a_share(share):
    generator = torch.Generator().manual_seed(0)
    shares = torch.bernoulli(torch.full((SETS, 300), share), generator=generator).double().mean(-1)
    low, high = M.bootstrap.proportion_interval(shares, 300, 0.95)
    assert ((low >= 0) & (high <= 1)).all()
    assert 0.9 <= float(((low <= share) & (share <= high)).double().mean()) <= 0.99


def test_a_high_accuracy_has_an_interval_below_one():
    target = torch.zeros(100, dtype=torch.long)
    target[0] = 1
    intervals = M.calibration_intervals(torch.tensor([[3.0, 0.0]]).repeat(100, 1), target, inputs="logits")
    assert 0.9 < intervals["accuracy"].low < 0.99 < intervals["accuracy"].high < 1
    assert all(torch.isnan(end) for end in intervals["mce"])
