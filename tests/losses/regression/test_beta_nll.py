import pytest
import torch

from lightning_losses.losses import BetaNLL, GaussianNLL

GENERATOR = torch.Generator().manual_seed(0)
MEAN, Y, RAW = (torch.randn(4, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(3))
VARIANCE = RAW.exp()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_gradients_in_closed_form(beta):
    mean, variance = MEAN.clone().requires_grad_(), VARIANCE.clone().requires_grad_()
    by_mean, by_variance = torch.autograd.grad(BetaNLL(beta, reduction="sum")(mean, variance, Y), (mean, variance))
    torch.testing.assert_close(by_mean, VARIANCE ** (beta - 1) * (MEAN - Y))
    error = (Y - MEAN) ** 2
    torch.testing.assert_close(by_variance, VARIANCE**beta * 0.5 * (1 / VARIANCE - error / VARIANCE**2))


def test_the_entries_of_a_vector_are_added():
    each = BetaNLL(0.0, reduction="none")(MEAN, VARIANCE, Y)
    torch.testing.assert_close(each, GaussianNLL(reduction="none")(MEAN, VARIANCE, Y).sum(dim=-1))
    column = [tensor[:, 0] for tensor in (MEAN, VARIANCE, Y)]
    torch.testing.assert_close(
        BetaNLL(reduction="none")(*column),
        BetaNLL(reduction="none")(*(tensor[:, :1] for tensor in (MEAN, VARIANCE, Y))),
    )


def test_a_variance_of_0_is_refused():
    with pytest.raises(ValueError) as caught:
        BetaNLL()(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.zeros(2))
    assert str(caught.value) == "beta_nll: variance holds 0; give numbers above 0."
