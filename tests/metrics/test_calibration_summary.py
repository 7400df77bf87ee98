import pytest
import torch

from lightning_losses import metrics as M


def sample(rows=300):
    logits = 2 * torch.randn(rows, 4, dtype=torch.float64)
    return 2 * logits, torch.multinomial(logits.softmax(-1), 1)[:, 0]


@pytest.mark.parametrize("inputs", ["logits", "probabilities"])
def test_it_is_the_metrics_side_by_side(inputs):
    logits, target = sample()
    values = logits if inputs == "logits" else logits.softmax(-1)
    found = M.calibration_summary(values, target, inputs=inputs, num_bins=12)
    options = {"inputs": inputs, "num_bins": 12}
    expected = {
        "accuracy": (logits.argmax(-1) == target).double().mean(),
        "nll": M.negative_log_likelihood(values, target, inputs=inputs),
        "brier": M.brier_score(values, target, inputs=inputs),
        "ece": M.expected_calibration_error(values, target, **options),
        "adaptive_ece": M.expected_calibration_error(values, target, binning="mass", **options),
        "debiased_rmsce": M.rms_calibration_error(values, target, debiased=True, **options),
        "mce": M.maximum_calibration_error(values, target, binning="mass", **options),
        "classwise_ece": M.classwise_calibration_error(values, target, **options),
        "aurc": M.area_under_risk_coverage(values, target, inputs=inputs),
        "e_aurc": M.area_under_risk_coverage(values, target, inputs=inputs, excess=True),
    }
    assert tuple(found) == tuple(expected) == M.SUMMARY
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_every_value_has_an_interval_that_a_worse_model_leaves():
    logits, target = sample(1000)
    better, worse = (
        M.calibration_intervals(values, target, inputs="logits", resamples=50) for values in (logits / 2, 3 * logits)
    )
    assert tuple(better) == M.SUMMARY
    for name in ("nll", "brier", "ece", "adaptive_ece", "debiased_rmsce"):
        assert better[name].low <= better[name].high < worse[name].low


def test_no_samples_give_nan():
    found = M.calibration_summary(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), inputs="logits")
    assert all(torch.isnan(value) for value in found.values())
