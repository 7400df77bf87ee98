import pytest
import torch
from torch import nn

from lightning_losses.samplers.worst_case_forget_set import (
    project_to_capped_simplex,
    weighted_grad_diff,
    worst_case_forget_set,
)


@pytest.mark.parametrize("total", [0.0, 0.7, 3.0, 11.5, 12.0])
def test_the_projection_is_the_nearest(total):
    generator = torch.Generator().manual_seed(0)
    values = 2 * torch.randn(12, dtype=torch.float64, generator=generator)
    nearest = project_to_capped_simplex(values, total)
    assert nearest.min() >= 0 and nearest.max() <= 1
    torch.testing.assert_close(nearest.sum(), torch.tensor(total, dtype=torch.float64), rtol=0, atol=1e-12)
    # No move between two entries comes nearer: what may fall lies no further above its value than what may rise.
    error = nearest - values
    rising, falling = error[nearest < 1 - 1e-12], error[nearest > 1e-12]
    if len(rising) and len(falling):
        assert falling.max() <= rising.min() + 1e-9


def test_what_lies_within_stays():
    within = torch.tensor([0.25, 1.0, 0.0, 0.75])
    torch.testing.assert_close(project_to_capped_simplex(within, 2.0), within)


def fitted():
    """A line through eight samples, of which two lie on it, two near it and four away from it."""
    inputs = torch.linspace(-1, 1, 8, dtype=torch.float64).unsqueeze(1)
    away = torch.tensor([3.0, 0.1, 2.0, 0.0, 0.0, 2.0, 0.1, 3.0], dtype=torch.float64)
    network = nn.Linear(1, 1).double()
    with torch.no_grad():
        network.weight.fill_(2.0)
        network.bias.fill_(0.0)
    target = network(inputs).detach()[:, 0] + away
    return network, lambda net: (net(inputs)[:, 0] - target).square(), away


def test_the_hardest_are_those_that_are_still_known():
    network, losses, away = fitted()
    begun = network.weight.clone()
    # Hardly a step: the losses are those of the network, and the weights follow them.
    found = worst_case_forget_set(network, losses, 4, lr=1e-9, rounds=20)
    assert found.chosen.tolist() == (away < 1).tolist()
    torch.testing.assert_close(found.weights.sum(), torch.tensor(4.0).double())
    torch.testing.assert_close(found.weights, found.chosen.double())
    assert torch.equal(network.weight, begun)
    easy = worst_case_forget_set(network, losses, 4, lr=1e-9, rounds=20, easiest=True)
    assert easy.chosen.tolist() == (away > 1).tolist()


def test_losses_are_those_after_unlearning():
    network, losses, _ = fitted()
    found = worst_case_forget_set(network, losses, 2, rounds=1, steps=1, lr=0.5)
    weights = torch.full((8,), 0.25, dtype=torch.float64)
    slopes = torch.autograd.grad(weighted_grad_diff(losses(network), weights), list(network.parameters()))
    with torch.no_grad():
        for parameter, slope in zip(network.parameters(), slopes, strict=True):
            parameter -= 0.5 * slope.sign()
    torch.testing.assert_close(found.losses, losses(network).detach())
    moved = weights - 0.1 * (found.losses + 2e-2 * weights)
    torch.testing.assert_close(found.weights, project_to_capped_simplex(moved, 2))


def test_a_network_in_training_mode_keeps_its_running_means():
    inputs = torch.linspace(1, 3, 8).unsqueeze(1)
    network = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    worst_case_forget_set(network, lambda net: net(inputs)[:, 0].square(), 4, rounds=1, steps=1)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_large_gamma_makes_the_weights_alike():
    network, losses, _ = fitted()
    found = worst_case_forget_set(network, losses, 2, lr=1e-9, gamma=1e4, weight_lr=4e-5, rounds=30)
    assert (found.weights - 0.25).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"size": 9}, "size=9 came with losses of shape"), ({"size": 0}, "size"), ({"size": 2, "gamma": -1.0}, "gamma")],
)
def test_what_does_not_fit_is_refused(options, words):
    network, losses, _ = fitted()
    with pytest.raises(ValueError, match=words):
        worst_case_forget_set(network, losses, **options)
    with pytest.raises(ValueError, match="not finite"):
        project_to_capped_simplex(torch.tensor([torch.nan]), 1.0)
