import pytest
import torch

from lightning_losses.losses import FocalAdaptive, focal_adaptive_loss, focal_loss
from tests.losses.calibration.cases import sample


def test_the_exponent_depends_on_the_probability_of_the_target():
    logits, target = sample(40)
    low = logits.softmax(-1).gather(-1, target.unsqueeze(-1))[:, 0] < 0.2
    assert 0 < low.sum() < 40
    expected = torch.where(low, *(focal_loss(logits, target, gamma=g, reduction="none") for g in (5.0, 3.0)))
    torch.testing.assert_close(focal_adaptive_loss(logits, target, reduction="none"), expected)


def test_equal_exponents_are_focal_loss():
    logits, target = sample()
    torch.testing.assert_close(FocalAdaptive((3.0, 3.0))(logits, target), focal_loss(logits, target, gamma=3.0))


def test_on_the_threshold_the_second_exponent_holds():
    logits, target = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    torch.testing.assert_close(
        focal_adaptive_loss(logits, target, threshold=0.5), focal_loss(logits, target, gamma=3.0)
    )


@pytest.mark.parametrize("options", [{"gammas": (5.0,)}, {"gammas": (5.0, -1.0)}, {"threshold": 1.5}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"focal_adaptive: {next(iter(options))}="):
        FocalAdaptive(**options)
