import pytest
import torch

from lightning_losses.losses import BarlowTwins

GENERATOR = torch.Generator().manual_seed(0)
A, B = (torch.randn(7, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(2))


@pytest.mark.parametrize("std", ["biased_eps", "unbiased"])
def test_value_from_the_definition(std):
    value = 0.0
    for i in range(3):
        for j in range(3):
            a, b = A[:, i] - A[:, i].mean(), B[:, j] - B[:, j].mean()
            if std == "unbiased":
                correlation = (a * b).mean() / (a.std() * b.std())
            else:
                correlation = (a * b).mean() / ((a.square().mean() + 1e-5) * (b.square().mean() + 1e-5)).sqrt()
            value += (correlation - 1) ** 2 if i == j else 0.3 * correlation**2
    torch.testing.assert_close(BarlowTwins(0.3, std)(A, B), value)


def test_opposite_views_cost_4_a_feature():
    # Without eps, so that scales and shifts of features do not matter, and each correlation is -(N - 1) / N.
    moved = 5 - A * torch.tensor([0.1, 1.0, 7.0])
    torch.testing.assert_close(BarlowTwins(0.0, "unbiased")(A, moved), A.new_tensor(3 * (6 / 7 + 1) ** 2))


def test_a_constant_feature_costs_1_and_pulls_nothing():
    for std, value in (("biased_eps", torch.full((4, 1), 0.1)), ("unbiased", torch.full((4, 1), 0.1))):
        view = value.clone().requires_grad_()
        loss = BarlowTwins(std=std)(view, torch.randn(4, 1, generator=GENERATOR))
        assert loss.item() == pytest.approx(1)
        (gradient,) = torch.autograd.grad(loss, view)
        assert bool(gradient.isfinite().all()) and (std == "biased_eps" or not gradient.any())


@pytest.mark.parametrize(("std", "factor"), [("biased_eps", 1e30), ("unbiased", 1e30), ("unbiased", 1e-20)])
def test_features_whose_squares_single_precision_does_not_hold_have_the_value_of_others(std, factor):
    a, b = (view.float() for view in (A, B))
    ordinary, view = (1e3 * a if factor > 1 else a).requires_grad_(), (a * factor).requires_grad_()
    loss = BarlowTwins(std=std)
    expected, value = loss(ordinary, 1e3 * b), loss(view, b * factor)
    torch.testing.assert_close(value, expected)
    (slope,), (gradient,) = torch.autograd.grad(expected, ordinary), torch.autograd.grad(value, view)
    torch.testing.assert_close(gradient * factor, slope * ordinary.detach()[0, 0] / a[0, 0], rtol=1e-4, atol=1e-5)


def test_views_of_different_widths_are_refused():
    with pytest.raises(ValueError) as caught:
        BarlowTwins()(torch.zeros(2, 3), torch.zeros(2, 4))
    assert str(caught.value) == (
        "barlow_twins: embeddings_b of shape [2, 4] came with embeddings of shape [2, 3]; give vectors of the same "
        "samples and the same width."
    )
