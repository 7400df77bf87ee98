"""The z-loss: its gradient in closed form, and what softmax does not see."""

import pytest
import torch

from lightning_losses.losses import ZLoss


def test_the_gradient_is_the_closed_form():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    ZLoss(coefficient=0.3)(logits).backward()
    lse = torch.logsumexp(logits, dim=-1, keepdim=True)
    torch.testing.assert_close(logits.grad, (2 * 0.3 * lse * logits.softmax(-1) / 4).detach())


def test_it_sees_a_shift_and_vanishes_at_a_normaliser_of_one():
    logits = torch.randn(4, 3, dtype=torch.float64)
    normalised = logits.log_softmax(-1)
    assert ZLoss()(normalised).item() == pytest.approx(0, abs=1e-30)
    torch.testing.assert_close(ZLoss(coefficient=1.0)(normalised + 5).item(), 25.0)


def test_a_negative_coefficient_is_refused():
    with pytest.raises(ValueError, match="coefficient=-1"):
        ZLoss(coefficient=-1)
