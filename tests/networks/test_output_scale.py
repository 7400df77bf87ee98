"""The scaled, centred network: 0 at the start, and its copy out of training's reach."""

import pytest
import torch
from torch import nn

from lightning_losses.networks.output_scale import OutputScale


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def test_the_centred_output_starts_at_exactly_zero_and_moves_with_the_weights():
    scaled, inputs = OutputScale(network(), alpha=8.0), torch.randn(3, 4)
    assert not scaled(inputs).any()
    start = scaled.network(inputs).detach()
    with torch.no_grad():
        scaled.network[2].bias.add_(0.5)
    torch.testing.assert_close(scaled(inputs), 8 * (scaled.network(inputs) - start))


def test_uncentred_at_scale_one_is_the_network():
    inner, inputs = network(), torch.randn(3, 4)
    assert torch.equal(OutputScale(inner, centred=False)(inputs), inner(inputs))


def test_the_copy_trains_in_no_optimizer_and_is_saved():
    scaled = OutputScale(network())
    assert len(list(scaled.parameters())) == 4
    scaled(torch.randn(3, 4)).sum().backward()
    assert all(not buffer.requires_grad for buffer in scaled.buffers())
    other = OutputScale(network())
    other.load_state_dict(scaled.state_dict())
    assert torch.equal(other.start[0].weight, scaled.start[0].weight)


def test_alpha_scales_the_gradient():
    inner, inputs = network(), torch.randn(3, 4)
    gradients = []
    for alpha in (1.0, 4.0):
        inner.zero_grad()
        OutputScale(inner, alpha)(inputs).sum().backward()
        gradients.append(inner[0].weight.grad.clone())
    torch.testing.assert_close(gradients[1], 4 * gradients[0])


def test_alpha_zero_is_refused():
    with pytest.raises(ValueError, match="alpha=0"):
        OutputScale(network(), alpha=0)
