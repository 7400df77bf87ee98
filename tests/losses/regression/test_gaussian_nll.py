import math

import pytest
import torch

from lightning_losses.losses import GaussianNLL

MEAN, Y = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([1.5, -1.0, 0.0]).double()
VARIANCE = torch.tensor([1e-4, 0.3, 2.0]).double()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_it_is_torchs(full, reduction):
    leaves = [tensor.clone().requires_grad_() for tensor in (MEAN, VARIANCE)]
    ours = GaussianNLL(floor=1e-2, full=full, reduction=reduction)(*leaves, Y)
    theirs = torch.nn.functional.gaussian_nll_loss(leaves[0], Y, leaves[1], full=full, eps=1e-2, reduction=reduction)
    torch.testing.assert_close(ours, theirs)
    both = [torch.autograd.grad(value.sum(), leaves, retain_graph=True) for value in (ours, theirs)]
    torch.testing.assert_close(*both)


def test_full_is_the_negative_log_density():
    density = torch.distributions.Normal(MEAN, VARIANCE.sqrt()).log_prob(Y)
    torch.testing.assert_close(GaussianNLL(full=True, reduction="none")(MEAN, VARIANCE, Y), -density)


def test_a_collapsed_variance_recovers_or_stays():
    for floor_gradient, slope in (("straight_through", 0.5 * (1 / 0.1 - 4 / 0.01)), ("clamp", 0.0)):
        variance = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        value = GaussianNLL(floor=0.1, floor_gradient=floor_gradient)(
            torch.zeros(1).double(), variance, torch.full((1,), 2.0).double()
        )
        assert value.item() == pytest.approx(0.5 * (math.log(0.1) + 40))
        assert torch.autograd.grad(value, variance)[0].item() == pytest.approx(slope)


def test_the_best_variance_is_the_squared_error():
    variance = ((Y - MEAN).square() + 1e-3).requires_grad_()
    value = GaussianNLL(reduction="sum")(MEAN, variance, Y + (1e-3 + (Y - MEAN).square()).sqrt() - (Y - MEAN))
    torch.testing.assert_close(torch.autograd.grad(value, variance)[0], torch.zeros(3).double())


@pytest.mark.parametrize(
    ("mean", "variance", "target", "told"),
    [
        ([3], [3], [3, 1], "mean of shape [3] came with regression_target of shape [3, 1]; give mean of shape [3, 1]."),
        ([3, 1], [3, 1], [3], "mean of shape [3, 1] came with regression_target of shape [3]; give mean of shape [3]."),
        ([3], [1], [3], "variance of shape [1] came with regression_target of shape [3]; give variance of shape [3]."),
        ([], [], [], "regression_target of shape [] came; give a number for each sample, [B] or [B, D]."),
    ],
)
def test_nothing_is_broadcast(mean, variance, target, told):
    with pytest.raises(ValueError) as caught:
        GaussianNLL()(torch.zeros(mean), torch.ones(variance), torch.zeros(target))
    assert str(caught.value) == f"gaussian_nll: {told}"


def test_what_is_wrong_is_told():
    for variance, target, told in (
        (torch.tensor([-0.5]), torch.zeros(1), "variance holds -0.5; give numbers of at least 0."),
        (
            torch.ones(1),
            torch.zeros(1).long(),
            "regression_target has dtype torch.int64; give floating-point numbers, such as regression_target.float().",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            GaussianNLL()(torch.zeros(1), variance, target)
        assert str(caught.value) == f"gaussian_nll: {told}"
