"""Brier score, negative log-likelihood, kernel calibration error, risk and coverage, bootstrap."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import brier_score_loss, log_loss

from lightning_losses import metrics as M
from tests.metrics.draws import drawn


def sample(rows=300, classes=4):
    logits = 2 * torch.randn(rows, classes, dtype=torch.float64)
    return logits, drawn(torch.softmax(logits / 2, -1))


def test_scores_agree_with_scikit_learn():
    logits, target = sample()
    probabilities = logits.softmax(-1)
    nll = M.negative_log_likelihood(logits, target, inputs="logits")
    assert float(nll) == pytest.approx(log_loss(target.numpy(), probabilities.numpy()), rel=1e-12)
    positive = (target == 0).long()
    brier = M.brier_score(probabilities[:, 0], positive, inputs="probabilities", task="binary")
    assert float(brier) == pytest.approx(brier_score_loss(positive.numpy(), probabilities[:, 0].numpy()), rel=1e-12)


def test_two_class_brier_is_twice_the_binary_one():
    logits, target = sample(classes=2)
    binary = M.brier_score(logits[:, 1] - logits[:, 0], target, inputs="logits", task="binary")
    torch.testing.assert_close(M.brier_score(logits, target, inputs="logits"), 2 * binary)


def test_likelihood_of_logits_has_no_floor_and_of_probabilities_has():
    target = torch.tensor([1])
    assert M.negative_log_likelihood(torch.tensor([[1e4, 0.0]]), target, inputs="logits") == 1e4
    floor = M.negative_log_likelihood(torch.tensor([[1.0, 0.0]]), target, inputs="probabilities")
    assert float(floor) == pytest.approx(27.631, abs=1e-3)


def test_likelihood_of_infinite_binary_logits_is_that_of_certainty():
    certain = torch.tensor([torch.inf, -torch.inf])
    assert M.negative_log_likelihood(certain, torch.tensor([1, 0]), inputs="logits", task="binary") == 0
    assert M.negative_log_likelihood(certain, torch.tensor([1, 1]), inputs="logits", task="binary") == torch.inf


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_brier_parts_add_up(task):
    logits, target = sample()
    if task != "multiclass":
        target = F.one_hot(target, 4)
    if task == "binary":
        logits, target = logits[:, 0], target[:, 0]
    parts = M.brier_decomposition(logits, target, inputs="logits", task=task, num_bins=10)
    score = M.brier_score(logits, target, inputs="logits", task=task)
    torch.testing.assert_close(parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins, score)
    metric = M.BrierDecomposition(1 if task == "binary" else 4, inputs="logits", task=task, num_bins=10, keep_rows=True)
    metric.update(logits[:100], target[:100])
    metric.update(logits[100:], target[100:])
    for name, value in metric.compute().items():
        torch.testing.assert_close(value, getattr(parts, name))
    with pytest.raises(ValueError, match="they have no valid interval"):
        metric.interval()


def test_forecasts_of_one_value_per_bin_have_nothing_within_bins():
    probability = torch.tensor([0.125, 0.375, 0.625, 0.875]).repeat(50)
    target = torch.bernoulli(probability).long()
    parts = M.brier_decomposition(probability, target, inputs="probabilities", task="binary", num_bins=4)
    assert float(parts.within_bins) == pytest.approx(0, abs=1e-15)


def test_kernel_error_of_a_pair_by_hand():
    probabilities = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    target = torch.tensor([0, 0])
    inner = 0.2 * 0.7 + (-0.2) * (-0.7)
    distance = (0.5**2 + 0.5**2) ** 0.5
    value = M.kernel_calibration_error(probabilities, target, inputs="probabilities", bandwidth=2.0)
    torch.testing.assert_close(value, inner * torch.exp(torch.tensor(-distance / 2.0, dtype=torch.float64)))


def test_kernel_error_is_unbiased():
    values = []
    for _ in range(200):
        logits = torch.randn(30, 3, dtype=torch.float64)
        target = drawn(logits.softmax(-1))
        values.append(M.kernel_calibration_error(logits, target, inputs="logits", bandwidth=0.5))
    values = torch.stack(values)
    assert (values < 0).any()
    # The mean of 200 draws is within 4 of its standard errors of 0.
    assert values.mean().abs() < 4 * values.std() / 200**0.5


def test_kernel_error_sees_miscalibration_and_its_interval_says_so():
    logits, target = sample(400)
    metric = M.KernelCalibrationError(inputs="logits")
    metric.update(logits * 3, target)
    low, high = metric.interval()
    assert 0 < low < metric.compute() < high


def test_kernel_error_in_pieces_is_the_same(monkeypatch):
    module = importlib.import_module("lightning_losses.metrics.kernel_calibration_error")
    logits, target = sample()
    whole = M.kernel_calibration_error(logits, target, inputs="logits")
    monkeypatch.setattr(module, "_CHUNK", 1000)
    torch.testing.assert_close(M.kernel_calibration_error(logits, target, inputs="logits"), whole)


def test_kernel_error_needs_two_rows():
    logits, target = sample(1)
    assert torch.isnan(M.kernel_calibration_error(logits, target, inputs="logits"))
    with pytest.raises(ValueError, match="bandwidth"):
        M.KernelCalibrationError(inputs="logits", bandwidth=0)


def test_risk_coverage_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    target = torch.tensor([0, 1, 0, 1])
    curve = M.risk_coverage_curve(probabilities, target, inputs="probabilities")
    torch.testing.assert_close(curve.risk, torch.tensor([0, 1 / 2, 1 / 3, 1 / 2], dtype=torch.float64))
    area = M.area_under_risk_coverage(probabilities, target, inputs="probabilities")
    torch.testing.assert_close(area, curve.risk.mean())
    # The best order: no error among two, one among three, two among four.
    excess = M.area_under_risk_coverage(probabilities, target, inputs="probabilities", excess=True)
    torch.testing.assert_close(excess, area - (1 / 3 + 1 / 2) / 4)


def test_a_perfect_order_has_no_excess():
    confidence = torch.linspace(0.99, 0.6, 50)
    target = (torch.arange(50) >= 30).long()
    probabilities = torch.stack([confidence, 1 - confidence], -1)
    excess = M.area_under_risk_coverage(probabilities, target, inputs="probabilities", excess=True)
    assert float(excess) == pytest.approx(0, abs=1e-15)


def test_equal_confidences_are_taken_in_random_order_in_expectation():
    target = torch.tensor([0, 1, 1, 0, 0])
    area = M.area_under_risk_coverage(torch.zeros(5, 2), target, inputs="logits")
    assert float(area) == pytest.approx(0.4)


@pytest.mark.parametrize("metric", [M.area_under_risk_coverage, M.kernel_calibration_error, M.overconfidence_error])
def test_multilabel_is_refused_where_it_means_nothing(metric):
    with pytest.raises(ValueError, match="task='multilabel'"):
        metric(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.long), inputs="logits", task="multilabel")


def test_the_interval_of_a_mean_is_the_normal_one():
    values = torch.randn(2000, dtype=torch.float64)
    low, high = M.bootstrap_interval(torch.mean, values, resamples=2000)
    half = 1.96 * values.std() / 2000**0.5
    # 2000 resamples place a 2.5% quantile to a few percent of the width.
    torch.testing.assert_close(
        torch.stack([low, high]),
        torch.stack([values.mean() - half, values.mean() + half]),
        rtol=0,
        atol=float(0.15 * half),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, "level"),
        ({"resamples": 1}, "resamples"),
    ],
)
def test_bad_bootstrap_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        M.bootstrap_interval(torch.mean, torch.arange(3.0), **options)


def test_bootstrap_rows_must_match():
    with pytest.raises(ValueError, match=r"\[3, 2\] rows"):
        M.bootstrap_interval(lambda a, b: a.mean(), torch.zeros(3), torch.zeros(2))
