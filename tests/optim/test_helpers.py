"""Selecting parameters by name, decay on matrices, warm-up."""

import pytest
import torch
from torch import nn

from lightning_losses.optim.selection import select_parameters
from lightning_losses.optim.warm_up import linear_warm_up
from lightning_losses.optim.weight_decay import decay_matrices


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def test_patterns_select():
    named = list(network().named_parameters())
    assert list(select_parameters("who", named, include=["0.*", "2.*"], exclude=["*.bias"])) == ["0.weight", "2.weight"]


def test_frozen_parameters_are_not_selected():
    module = network()
    module[0].requires_grad_(False)
    assert list(select_parameters("who", module.named_parameters(), include=["*weight"])) == ["1.weight", "2.weight"]


@pytest.mark.parametrize(
    "options", [{"include": ["3.*"]}, {"exclude": ["*gain"]}, {"exclude": ["*"]}, {"include": "*"}]
)
def test_patterns_that_do_nothing_are_refused(options):
    with pytest.raises(ValueError, match="who"):
        select_parameters("who", network().named_parameters(), **options)


def test_only_matrices_decay():
    module = network()
    optimizer = torch.optim.SGD(decay_matrices(module.parameters(), weight_decay=1.0), lr=0.5)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in module.named_parameters():
        factor = 0.5 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_warm_up_is_linear_then_flat():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = linear_warm_up(optimizer, steps=4)
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
