import math

import pytest
import torch

from lightning_losses.numerics.tempered import tempered_logarithm


@pytest.mark.parametrize("temperature", [-1.0, 0.3, 1.0, 1.7, 3.0])
def test_value_and_slope_from_the_definition(temperature):
    log_x = torch.tensor([-5.0, -1e-9, 0.0, 1e-9, 5.0], dtype=torch.float64, requires_grad=True)
    value = tempered_logarithm(log_x, temperature)
    # The integral of x^-t from 1 to x, in the logarithm of x.
    steps = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(torch.exp((1 - temperature) * steps * log_x.detach().unsqueeze(-1)), steps)
    torch.testing.assert_close(value.detach(), integral * log_x.detach(), rtol=1e-6, atol=0)
    (slope,) = torch.autograd.grad(value.sum(), log_x)
    torch.testing.assert_close(slope, torch.exp((1 - temperature) * log_x.detach()))


@pytest.mark.parametrize("temperature", [1 - 1e-12, 1 + 1e-12])
def test_near_temperature_1_it_is_the_logarithm(temperature):
    log_x = torch.tensor([-3.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(tempered_logarithm(log_x, temperature), log_x)


def test_what_would_overflow_goes_on_in_a_straight_line():
    log_x = torch.tensor([60.0, 61.0, 1e4, torch.inf], requires_grad=True)
    value = tempered_logarithm(log_x, 0.0)
    (slope,) = torch.autograd.grad(value[1:].sum(), log_x)
    assert value.tolist() == pytest.approx([math.exp(60), 2 * math.exp(60), 9941 * math.exp(60), math.inf])
    assert slope[1:].tolist() == pytest.approx([math.exp(60)] * 3)


def test_zero_has_the_least_value_and_no_slope():
    log_x = torch.tensor(-torch.inf, requires_grad=True)
    value = tempered_logarithm(log_x, 0.5)
    assert value.item() == -2.0 and torch.autograd.grad(value, log_x)[0].item() == 0.0
