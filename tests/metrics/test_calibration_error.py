import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from lightning_losses import metrics as M
from lightning_losses.metrics.bins import mass_bins


def sample(rows=500, classes=5, sharpness=1.0):
    logits = 2 * torch.randn(rows, classes, dtype=torch.float64)
    target = torch.multinomial(torch.softmax(logits, -1), 1)[:, 0]
    return torch.softmax(sharpness * logits, -1), target


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_equal_width_agrees_with_torchmetrics(norm):
    probabilities, target = sample(sharpness=2.0)
    ours = M.calibration_error(
        probabilities, target, inputs="probabilities", norm={"l1": 1, "l2": 2, "max": "max"}[norm]
    )
    # torchmetrics computes in float32.
    theirs = multiclass_calibration_error(probabilities, target, 5, n_bins=15, norm=norm).double()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours = M.calibration_error(
        probabilities[:, 0],
        (target == 0).long(),
        inputs="probabilities",
        task="binary",
        norm={"l1": 1, "l2": 2, "max": "max"}[norm],
    )
    theirs = binary_calibration_error(probabilities[:, 0].contiguous(), (target == 0).long(), n_bins=15, norm=norm)
    theirs = theirs.double()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_calibrated_data_has_debiased_error_about_zero_and_plug_in_error_above():
    samples = [sample(rows=3000) for _ in range(20)]
    debiased, plug_in = (
        torch.stack([M.rms_calibration_error(*s, inputs="probabilities", debiased=d) for s in samples])
        for d in (True, False)
    )
    # A bin's accuracy has a noise of about 0.4 / sqrt(3000 / 15) = 0.03: the plug-in error is that, always; debiased,
    # half of the values are 0 and the others what the noise's own variation leaves.
    assert plug_in.min() > 0.015
    assert debiased.median() < 0.01
    assert debiased.square().mean() < plug_in.square().mean() / 3


def test_an_uncalibrated_model_is_far_from_zero():
    probabilities, target = sample(rows=5000, sharpness=3.0)
    assert M.rms_calibration_error(probabilities, target, inputs="probabilities", debiased=True) > 0.1


def test_norms_are_ordered():
    probabilities, target = sample(sharpness=1.5)
    ece, rms, mce = (M.calibration_error(probabilities, target, inputs="probabilities", norm=n) for n in (1, 2, "max"))
    assert ece <= rms <= mce


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_one_bin_is_confidence_against_accuracy(binning):
    probabilities, target = sample()
    confidence, prediction = probabilities.max(-1)
    expected = (confidence.mean() - (prediction == target).double().mean()).abs()
    value = M.expected_calibration_error(probabilities, target, inputs="probabilities", num_bins=1, binning=binning)
    torch.testing.assert_close(value, expected)


def test_certain_predictions_err_by_the_error_rate():
    probabilities, target = sample()
    logits = 1e4 * probabilities
    error_rate = (probabilities.argmax(-1) != target).double().mean()
    torch.testing.assert_close(
        M.expected_calibration_error(logits, target, inputs="logits"), error_rate, rtol=1e-3, atol=1e-3
    )


@given(st.integers(1, 200), st.integers(1, 40))
def test_equal_mass_bins_have_equal_counts_up_to_one(rows, bins):
    confidence = torch.rand(rows, 2, dtype=torch.float64)
    index = mass_bins(confidence, bins)
    for column in index.T:
        counts = torch.bincount(column)
        assert len(counts) == min(rows, bins)
        assert counts.max() - counts.min() <= 1


def test_equal_confidences_share_a_bin():
    confidence = torch.tensor([0.5] * 10 + [0.7] * 3, dtype=torch.float64).unsqueeze(-1)
    index = mass_bins(confidence, 5)[:, 0]
    assert len(set(index[:10].tolist())) == 1
    assert len(set(index[10:].tolist())) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_confidences_on_edges_have_the_error_of_their_bins_in_every_precision(dtype):
    # 0.8 closes its bin and 0.9 the next: each bin has one value, and its own gap.
    confidence, target = torch.tensor([0.8] * 5 + [0.9] * 5, dtype=dtype), torch.tensor([1] * 5 + [1, 1, 1, 0, 0])
    options = {"inputs": "probabilities", "task": "binary", "num_bins": 10}
    rounding = 4 * torch.finfo(dtype).eps
    assert float(M.expected_calibration_error(confidence, target, **options)) == pytest.approx(0.25, abs=rounding)
    assert float(M.ExpectedCalibrationError(**options)(confidence, target)) == pytest.approx(0.25, abs=rounding)
    low, one = torch.tensor([0.1, 0.05], dtype=dtype), torch.tensor([1, 0])
    assert float(M.expected_calibration_error(low, one, **options)) == pytest.approx(0.425, abs=rounding)


def test_fewer_samples_than_bins_are_a_bin_each():
    probabilities, target = sample(rows=4)
    confidence, prediction = probabilities.max(-1)
    each = (confidence - (prediction == target).double()).abs().mean()
    value = M.expected_calibration_error(probabilities, target, inputs="probabilities", num_bins=15, binning="mass")
    torch.testing.assert_close(value, each)


def test_multilabel_is_the_mean_of_its_labels():
    logits, target = torch.randn(100, 3), torch.randint(2, (100, 3))
    together = M.expected_calibration_error(logits, target, inputs="logits", task="multilabel")
    apart = [M.expected_calibration_error(logits[:, k], target[:, k], inputs="logits", task="binary") for k in range(3)]
    torch.testing.assert_close(together, torch.stack(apart).mean())
    metric = M.ExpectedCalibrationError(inputs="logits", task="multilabel", num_classes=3)
    torch.testing.assert_close(metric(logits, target), together)


def test_empty_bins_have_no_part_in_a_mean_over_bins():
    probabilities, target = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 0, 0])
    value = M.calibration_error(probabilities, target, inputs="probabilities", weighting="uniform")
    assert float(value) == pytest.approx((0.1 + 0.4) / 2)


def test_overconfidence_by_hand():
    probabilities, target = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1, 0])
    found = {
        d: M.overconfidence_error(probabilities, target, inputs="probabilities", direction=d) for d in ("over", "under")
    }
    # Bins of 2 and of 1 of the three samples, each 0.4 off, and weighed by their confidence.
    assert {d: pytest.approx(float(value)) for d, value in found.items()} == {"over": 0.24, "under": 0.08}


def test_over_and_underconfidence_split_a_weighted_error():
    probabilities, target = sample(rows=400, sharpness=0.3)
    over, under = (
        M.overconfidence_error(probabilities, target, inputs="probabilities", direction=d) for d in ("over", "under")
    )
    assert under > 10 * over
    assert over + under <= M.expected_calibration_error(probabilities, target, inputs="probabilities")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_bins": 0}, "num_bins"),
        ({"num_bins": 2.5}, "integer"),
        ({"norm": 0.5}, "norm"),
        ({"binning": "quantile"}, "binning"),
        ({"debiased": True}, "norm=2"),
        ({"scope": "all"}, "scope"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        M.calibration_error(*sample(), inputs="probabilities", **options)
    with pytest.raises(ValueError, match=message):
        M.CalibrationError(inputs="probabilities", **options)


def test_class_sums_need_the_number_of_classes():
    with pytest.raises(ValueError, match="num_classes"):
        M.CalibrationError(inputs="logits", scope="classwise")
