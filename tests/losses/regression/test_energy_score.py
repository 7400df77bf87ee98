import pytest
import torch

from lightning_losses.losses import CRPSEnsemble, EnergyScore

GENERATOR = torch.Generator().manual_seed(0)
ENSEMBLE, Y = (torch.randn(*shape, dtype=torch.float64, generator=GENERATOR) for shape in ((2, 3, 4), (2, 3)))


@pytest.mark.parametrize(("estimator", "pairs"), [("fair", 12), ("standard", 16)])
@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_value_from_all_pairs(estimator, pairs, exponent):
    values = EnergyScore(estimator, exponent, reduction="none")(ENSEMBLE, Y)
    for members, y, value in zip(ENSEMBLE.mT, Y, values, strict=True):
        far = sum((member - y).norm() ** exponent for member in members) / 4
        among = sum((one - other).norm() ** exponent for one in members for other in members)
        torch.testing.assert_close(value, far - among / (2 * pairs))


@pytest.mark.parametrize("estimator", ["fair", "standard"])
def test_of_vectors_of_one_number_it_is_the_crps(estimator):
    ensemble, y = ENSEMBLE[:, 0], Y[:, 0]
    expected = CRPSEnsemble(estimator, reduction="none")(ensemble, y)
    for shaped in ((ensemble, y), (ensemble[:, None], y[:, None])):
        torch.testing.assert_close(EnergyScore(estimator, reduction="none")(*shaped), expected)


def test_turning_all_vectors_changes_nothing():
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=GENERATOR)).Q
    torch.testing.assert_close(EnergyScore()(turn @ ENSEMBLE, Y @ turn.T), EnergyScore()(ENSEMBLE, Y))


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_members_that_are_equal_have_a_finite_slope(exponent):
    ensemble = Y[:, :, None].repeat(1, 1, 4).requires_grad_()
    value = EnergyScore(exponent=exponent)(ensemble, Y)
    assert value.item() == 0 and bool((torch.autograd.grad(value, ensemble)[0] == 0).all())
