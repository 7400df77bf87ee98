import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import DANN
from lightning_losses.networks.gradient_reversal import GradientReversal, reverse_gradient
from tests.losses.domains.batches import DOMAIN, FEATURES


def gradients(progress):
    torch.manual_seed(0)
    loss = DANN(3, feature_dim=3, hidden=5).double()
    leaf = FEATURES.clone().requires_grad_()
    value = loss(leaf, DOMAIN, progress=progress)
    plain = F.cross_entropy(loss.discriminator(leaf), DOMAIN)
    torch.testing.assert_close(value, plain)
    weights = list(loss.parameters())
    own, expected = (torch.autograd.grad(one, [leaf, *weights]) for one in (value, plain))
    return own, expected, loss.strength(progress)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_discriminator_learns_what_the_features_unlearn(progress):
    own, expected, strength = gradients(progress)
    torch.testing.assert_close(own[0], -strength * expected[0])
    torch.testing.assert_close(own[1:], expected[1:])


def test_the_strength_rises_from_0_to_1():
    loss = DANN(2)
    wanted = [2 / (1 + torch.tensor(-10.0 * p, dtype=torch.float64).exp().item()) - 1 for p in (0.0, 0.2, 1.0)]
    assert [loss.strength(p) for p in (0.0, 0.2, 1.0)] == pytest.approx(wanted)
    with pytest.raises(ValueError, match="^dann: progress=1.5 came"):
        loss(FEATURES.float(), DOMAIN % 2, progress=1.5)
    with pytest.raises(ValueError, match="^dann: progress=nan came; give a fraction from 0 to 1"):
        loss(FEATURES.float(), DOMAIN % 2, progress=torch.tensor(torch.nan))


def test_a_reversed_value_is_exact_and_so_is_its_second_derivative():
    x = torch.tensor([1e-30, 3.0, 1e30], requires_grad=True)
    assert torch.equal(GradientReversal(0.5)(x), x)
    x = torch.tensor(2.0, requires_grad=True)
    (first,) = torch.autograd.grad(reverse_gradient(x, 0.5) ** 3, x, create_graph=True)
    # Backward -1/2 · 3 y², whose y is reversed again.
    torch.testing.assert_close(first, torch.tensor(-6.0))
    torch.testing.assert_close(torch.autograd.grad(first, x)[0], torch.tensor(3.0))
