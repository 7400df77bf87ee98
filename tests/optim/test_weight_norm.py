"""The weight norm and its projection."""

import pytest
import torch

from lightning_losses.optim.weight_norm import project_weight_norm_, scale_weights_, weight_norm


def weights():
    return [torch.randn(5, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)]


def test_one_factor_for_all_tensors():
    before = weights()
    after = [weight.clone() for weight in before]
    project_weight_norm_(after, 7.0)
    assert weight_norm(after).item() == pytest.approx(7.0, abs=1e-12)
    torch.testing.assert_close(after[0] / before[0], torch.full_like(before[0], (after[1] / before[1])[0].item()))


def test_zero_weights_stay():
    zero = [torch.zeros(3)]
    project_weight_norm_(zero, 1.0)
    assert zero[0].tolist() == [0, 0, 0]


def test_scaling_scales_the_norm():
    after = weights()
    norm = weight_norm(after)
    scale_weights_(after, 0.5)
    torch.testing.assert_close(weight_norm(after), norm / 2)


def test_a_norm_of_zero_is_refused():
    with pytest.raises(ValueError, match="norm=0"):
        project_weight_norm_(weights(), 0)
