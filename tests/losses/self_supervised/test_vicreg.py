import torch

from lightning_losses.losses import VICReg

GENERATOR = torch.Generator().manual_seed(0)
A, B = (torch.randn(7, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(2))


def test_value_from_the_definition():
    value = 2.0 * (A - B).square().sum() / 21
    for view in (A, B):
        covariance = torch.cov(view.T)
        for i in range(3):
            value += 3.0 * max(0.0, 1.2 - (covariance[i, i] + 1e-3) ** 0.5) / 3 / 2
            value += 5.0 * sum(covariance[i, j] ** 2 for j in range(3) if j != i) / 3
    loss = VICReg(invariance_weight=2.0, variance_weight=3.0, covariance_weight=5.0, deviation=1.2, eps=1e-3)
    torch.testing.assert_close(loss(A, B), value)


def test_each_term_has_its_own_minimum():
    # Uncorrelated features of variance 16/3: wide enough, and alike in both views.
    view = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    assert VICReg()(view, view).item() == 0
    assert VICReg(variance_weight=0.0)(torch.zeros(4, 2), torch.zeros(4, 2)).item() == 0
    moved = torch.zeros(4, 2), torch.ones(4, 2)
    assert VICReg(variance_weight=0.0)(*moved).item() == 25
