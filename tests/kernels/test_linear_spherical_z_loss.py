"""The path without logits gives what the logits give."""

import pytest
import torch

from lightning_losses import linear_spherical_z_loss
from lightning_losses.kernels.linear_spherical_z_loss import HeadMoments, head_moments
from lightning_losses.losses import SphericalZLoss

SETTINGS = {"a": 0.7, "b": 1.5}


def head(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((2, 3, 4), (9, 4)))
    # A mean that is large beside the spread.
    return hidden.to(dtype), (weight + 5).to(dtype), torch.tensor([[0, 8, -100], [3, 3, 1]])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_value_and_gradients_are_those_of_the_logits(reduction):
    hidden, weight, target = head()
    hidden.requires_grad_(), weight.requires_grad_()
    ours = linear_spherical_z_loss(hidden, weight, target, reduction=reduction, **SETTINGS)
    dense = SphericalZLoss(reduction=reduction, **SETTINGS)(hidden @ weight.T, target)
    torch.testing.assert_close(ours, dense)
    slopes = [torch.autograd.grad(value.square().sum(), (hidden, weight)) for value in (ours, dense)]
    torch.testing.assert_close(*slopes)


def test_moments_are_computed_once_for_several_calls():
    hidden, weight, target = head()
    weight.requires_grad_()
    moments = head_moments(weight)
    halves = [
        linear_spherical_z_loss(hidden[row], weight, target[row], moments, reduction="sum", **SETTINGS)
        for row in (0, 1)
    ]
    whole = linear_spherical_z_loss(hidden, weight, target, reduction="sum", **SETTINGS)
    torch.testing.assert_close(sum(halves), whole)
    torch.testing.assert_close(torch.autograd.grad(sum(halves), weight), torch.autograd.grad(whole, weight))


def test_single_and_half_precision_lose_no_more_than_the_logits_do():
    exact = linear_spherical_z_loss(*head(), **SETTINGS)
    torch.testing.assert_close(
        linear_spherical_z_loss(*head(torch.float32), **SETTINGS).double(), exact, rtol=1e-5, atol=0
    )
    rounded = [tensor.bfloat16().double() if tensor.is_floating_point() else tensor for tensor in head()]
    torch.testing.assert_close(
        linear_spherical_z_loss(*head(torch.bfloat16), **SETTINGS).double(),
        linear_spherical_z_loss(*rounded, **SETTINGS),
        rtol=1e-5,
        atol=0,
    )


def test_nothing_kept_is_0_with_gradients_of_0():
    hidden, weight, target = head()
    hidden.requires_grad_(), weight.requires_grad_()
    value = linear_spherical_z_loss(hidden, weight, torch.full_like(target, -100))
    assert value == 0
    assert all(bool((slope == 0).all()) for slope in torch.autograd.grad(value, (hidden, weight)))


def test_what_is_no_number_at_an_ignored_token_stays_there():
    hidden, weight, target = head()
    hidden[target == -100] = torch.nan
    hidden.requires_grad_(), weight.requires_grad_()
    slopes = torch.autograd.grad(linear_spherical_z_loss(hidden, weight, target), (hidden, weight))
    assert all(bool(slope.isfinite().all()) for slope in slopes)


def test_moments_of_another_head_are_refused():
    hidden, weight, target = head()
    moments = HeadMoments(torch.zeros(3), torch.zeros(3, 3))
    with pytest.raises(ValueError) as error:
        linear_spherical_z_loss(hidden, weight, target, moments)
    assert str(error.value) == (
        "linear_spherical_z_loss: moments of shapes [3] and [3, 3] came with weight of shape [9, 4]; give "
        "head_moments(weight)."
    )
