import math

import pytest
import torch

from lightning_losses.losses import CSInformationBottleneck

GENERATOR = torch.Generator().manual_seed(0)
X, Z = torch.randn(2, 7, 3, dtype=torch.float64, generator=GENERATOR)
Y, PREDICTED = torch.randn(2, 7, 2, dtype=torch.float64, generator=GENERATOR)


def kernel(a, b, sigma):
    return (-(a.unsqueeze(1) - b).square().sum(dim=2) / (2 * sigma**2)).exp()


def divergence(sigma, form):
    of_inputs = kernel(X, X, sigma)
    below = of_inputs.square().sum(dim=1) if form == "sum_of_squares" else of_inputs.sum(dim=1).square()

    def similarity(a, b):
        return ((of_inputs * kernel(a, b, sigma)).sum(dim=1) / below).sum().log2()

    return similarity(Y, Y) + similarity(PREDICTED, PREDICTED) - 2 * similarity(PREDICTED, Y)


def information(a, b, sigma):
    k, m, n = kernel(a, a, sigma), kernel(b, b, sigma), len(a)
    together, apart = (k @ m).trace() / n**2, k.sum() * m.sum() / n**4
    return (together * apart).log2() - 2 * ((k @ m).sum() / n**3).log2()


@pytest.mark.parametrize("form", ["sum_of_squares", "square_of_sum"])
def test_value_from_the_definition(form):
    scale = (information(X, X, 1.3) * information(Z, Z, 1.3)).sqrt()
    expected = divergence(1.3, form) + 0.7 * information(X, Z, 1.3) / scale
    loss = CSInformationBottleneck(beta=0.7, sigma=1.3, denominator_form=form)
    torch.testing.assert_close(loss(X, Z, PREDICTED, Y), expected)
    # Nothing but distances matters.
    torch.testing.assert_close(loss(X + 50, Z - 9, PREDICTED + 3, Y + 3), expected)


def test_right_predictions_and_equal_features_cost_nothing():
    z = torch.ones(7, 3, dtype=torch.float64, requires_grad=True)
    value = CSInformationBottleneck(beta=1.0)(X, z, Y, Y)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, z)[0].eq(0).all()
    assert CSInformationBottleneck(beta=1.0)(X, Z, Y, Y) > 0
    assert CSInformationBottleneck(beta=1.0)(X, X, Y, Y).item() == pytest.approx(1)


def test_a_far_prediction_does_not_underflow():
    far = (Y + 1e4).requires_grad_()
    value = CSInformationBottleneck(beta=0.0)(X, Z, far, Y)
    # The nearest pair rules: its squared distance, twice half of it, in bits.
    assert value.item() == pytest.approx(2e8 / math.log(2), rel=1e-2)
    assert torch.autograd.grad(value, far)[0].isfinite().all()
    one = CSInformationBottleneck()(X[:1], Z[:1], Y[:1, 0] + 2, Y[:1, 0])
    assert one.item() == pytest.approx(4 / math.log(2))


def test_features_of_other_samples_are_refused():
    with pytest.raises(ValueError) as error:
        CSInformationBottleneck()(X, Z[:3], PREDICTED, Y)
    told = "features of shape [3, 3] came for 7 targets; give [B, D], of the same samples."
    assert str(error.value) == f"cs_information_bottleneck: {told}"
