import pytest
import torch

from lightning_losses.losses import SoftBinnedECE
from lightning_losses.metrics import rms_calibration_error
from tests.losses.confidence.cases import confidences, sample


def test_hard_bins_are_the_equal_width_error_of_norm_2():
    logits, target = sample(200)
    hard = SoftBinnedECE(temperature=1e-7)(logits, target)
    # A confidence within about 1e-5 of an edge would still be shared: none of the 200 is.
    torch.testing.assert_close(hard, rms_calibration_error(logits, target, inputs="logits", binning="width"))


def test_one_bin_is_confidence_against_accuracy():
    logits, target = sample()
    confidence, correct = confidences(logits, target)
    torch.testing.assert_close(SoftBinnedECE(num_bins=1)(logits, target), (confidence.mean() - correct.mean()).abs())


def test_a_calibrated_batch_has_no_gradient_trouble():
    logits = torch.tensor([[0.75, 0.25]], dtype=torch.float64).repeat(4, 1).log().requires_grad_()
    loss = SoftBinnedECE()(logits, torch.tensor([0, 0, 0, 1]))
    assert loss < 1e-7
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_bad_bins_are_refused():
    with pytest.raises(ValueError, match="soft_binned_ece: num_bins=0"):
        SoftBinnedECE(num_bins=0)
