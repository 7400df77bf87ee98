import pytest
import torch

from lightning_losses.losses import CRPSEnsemble, CRPSGaussian

GENERATOR = torch.Generator().manual_seed(0)
ENSEMBLE, Y = (torch.randn(*shape, dtype=torch.float64, generator=GENERATOR) for shape in ((3, 5), (3,)))


@pytest.mark.parametrize(("estimator", "pairs"), [("fair", 20), ("standard", 25)])
def test_value_and_gradient_from_all_pairs(estimator, pairs):
    tied = ENSEMBLE.clone()
    tied[0, 1] = tied[0, 3]
    leaf, other = tied.clone().requires_grad_(), tied.clone().requires_grad_()
    value = CRPSEnsemble(estimator, reduction="none")(leaf, Y)
    distances = (other[:, :, None] - other[:, None, :]).abs().sum(dim=(1, 2))
    expected = (other - Y[:, None]).abs().mean(dim=1) - distances / (2 * pairs)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v, x in ((value, leaf), (expected, other))))


def test_the_order_of_the_members_does_not_matter():
    torch.testing.assert_close(CRPSEnsemble()(ENSEMBLE.flip(-1), Y), CRPSEnsemble()(ENSEMBLE, Y))


def test_numbers_far_from_0_keep_their_digits():
    ensemble, y = (1e6 + ENSEMBLE).float(), (1e6 + Y).float()
    expected = CRPSEnsemble(reduction="none")(ensemble.double(), y.double())
    torch.testing.assert_close(CRPSEnsemble(reduction="none")(ensemble, y).double(), expected, rtol=1e-6, atol=0)


def test_many_members_are_the_gaussian_that_they_are_drawn_from():
    levels = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    members = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double()).icdf(levels)
    crps = CRPSGaussian(reduction="none")(torch.zeros_like(Y), torch.ones_like(Y), Y)
    torch.testing.assert_close(CRPSEnsemble(reduction="none")(members.expand(3, -1), Y), crps, rtol=0, atol=1e-3)


def test_the_standard_form_asks_for_too_small_a_spread():
    """Of four members and a number from one distribution it is larger by E|X - X'| / 8 than the fair one."""
    ensemble, y = (torch.randn(*shape, dtype=torch.float64, generator=GENERATOR) for shape in ((20_000, 4), (20_000,)))
    fair, standard = (CRPSEnsemble(estimator)(ensemble, y).item() for estimator in ("fair", "standard"))
    assert fair == pytest.approx(0.562, abs=0.015) and standard - fair == pytest.approx(0.141, abs=0.005)


def test_one_member_has_no_fair_form():
    assert CRPSEnsemble("standard")(ENSEMBLE[:, :1], Y).item() == pytest.approx(
        (ENSEMBLE[:, 0] - Y).abs().mean().item()
    )
    with pytest.raises(ValueError) as caught:
        CRPSEnsemble()(ENSEMBLE[:, :1], Y)
    assert str(caught.value) == (
        "crps_ensemble: an ensemble of 1 member came, of which there is no fair estimate; give at least 2, or "
        "estimator='standard'."
    )
