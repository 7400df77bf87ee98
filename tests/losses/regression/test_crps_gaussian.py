import math

import pytest
import torch

from lightning_losses.losses import CRPSGaussian

MEAN, SCALE, Y = (torch.tensor(values).double() for values in ([0.0, 1.0, -2.0], [1.0, 0.5, 3.0], [0.3, -1.0, 4.0]))


def test_it_is_the_integral_of_the_squared_difference_of_the_distributions():
    x = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    for mean, scale, y in zip(MEAN, SCALE, Y, strict=True):
        step = (torch.distributions.Normal(mean, scale).cdf(x) - (x >= y).double()).square()
        expected = torch.trapezoid(step, x)
        assert CRPSGaussian()(mean[None], scale[None], y[None]).item() == pytest.approx(expected.item(), abs=1e-4)


def test_gradients_in_closed_form():
    mean, scale = MEAN.clone().requires_grad_(), SCALE.clone().requires_grad_()
    normal = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    by_mean, by_scale = torch.autograd.grad(CRPSGaussian(reduction="sum")(mean, scale, Y), (mean, scale))
    w = (Y - MEAN) / SCALE
    torch.testing.assert_close(by_mean, 1 - 2 * normal.cdf(w))
    torch.testing.assert_close(by_scale, 2 * normal.log_prob(w).exp() - 1 / math.sqrt(math.pi))


def test_it_has_the_unit_of_the_number():
    torch.testing.assert_close(CRPSGaussian()(7 * MEAN, 7 * SCALE, 7 * Y), 7 * CRPSGaussian()(MEAN, SCALE, Y))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12])
@pytest.mark.parametrize("error", [0.0, 1.0, -1e6])
def test_without_a_spread_it_is_the_absolute_error(scale, error):
    mean, deviation = torch.zeros(1, requires_grad=True), torch.full((1,), scale, requires_grad=True)
    value = CRPSGaussian()(mean, deviation, torch.tensor([error]))
    assert value.item() == pytest.approx(abs(error), abs=1e-9)
    slopes = torch.autograd.grad(value, (mean, deviation))
    assert bool(torch.isfinite(torch.cat(slopes)).all()) and abs(slopes[0].item()) <= 1
