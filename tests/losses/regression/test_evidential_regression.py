import mpmath
import pytest
import torch

from lightning_losses.losses import EvidentialRegression
from lightning_losses.losses.regression.evidential_regression import _log_gamma_ratio, evidential_uncertainty

EVIDENTIAL = torch.tensor([[0.5, 0.2, 1.5, 2.0], [-1.0, 3.0, 4.0, 0.1]], dtype=torch.float64)
Y = torch.tensor([2.0, -1.0], dtype=torch.float64)


def test_without_the_penalty_it_is_students_t():
    gamma, nu, alpha, beta = EVIDENTIAL.unbind(-1)
    scale = (beta * (1 + nu) / (nu * alpha)).sqrt()
    expected = -torch.distributions.StudentT(2 * alpha, gamma, scale).log_prob(Y)
    torch.testing.assert_close(EvidentialRegression(0.0, reduction="none")(EVIDENTIAL, Y), expected)
    penalty = (Y - gamma).abs() * (2 * nu + alpha)
    torch.testing.assert_close(EvidentialRegression(0.5, reduction="none")(EVIDENTIAL, Y), expected + 0.5 * penalty)


def test_the_likelihood_sees_the_scale_alone():
    """More ν with less β, at one scale, is the same prediction."""
    other = EVIDENTIAL.clone()
    other[:, 1] *= 2
    other[:, 3] *= 2 * (1 + EVIDENTIAL[:, 1]) / (1 + other[:, 1])
    loss = EvidentialRegression(0.0)
    torch.testing.assert_close(loss(other, Y), loss(EVIDENTIAL, Y))
    assert not torch.allclose(*(evidential_uncertainty(e).epistemic for e in (other, EVIDENTIAL)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_terms_of_much_evidence_do_not_cancel(dtype):
    given = torch.tensor([1.01, 7.9, 8.1, 31.9, 32.1, 1e3, 1e6], dtype=dtype, requires_grad=True)
    ratio = _log_gamma_ratio(given)
    (gradient,) = torch.autograd.grad(ratio.sum(), given)
    with mpmath.workdps(50):
        alpha = [mpmath.mpf(a) for a in given.tolist()]
        value = [float(mpmath.loggamma(a) - mpmath.loggamma(a + 0.5)) for a in alpha]
        slope = [float(mpmath.psi(0, a) - mpmath.psi(0, a + 0.5)) for a in alpha]
    torch.testing.assert_close(ratio, ratio.new_tensor(value), rtol=16 * torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(gradient, ratio.new_tensor(slope), rtol=256 * torch.finfo(dtype).eps, atol=0)


def test_much_evidence_is_the_same_in_float32():
    evidential = torch.tensor([[0.5, 1.0, alpha, alpha] for alpha in (1e2, 1e4, 1e6)])
    value = EvidentialRegression(0.0, reduction="none")(evidential, torch.ones(3))
    exact = EvidentialRegression(0.0, reduction="none")(evidential.double(), torch.ones(3).double())
    torch.testing.assert_close(value.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("evidential", "told"),
    [
        ([[0.0, 0.0, 2.0, 1.0]], "evidential's ν holds 0; give numbers above 0."),
        ([[0.0, 1.0, 1.0, 1.0]], "evidential's α holds 1; give numbers above 1."),
        ([[0.0, 1.0, 2.0, -1.0]], "evidential's β holds -1; give numbers above 0."),
        ([[0.0, 1.0]], "evidential of shape [1, 2] came; give four numbers of each target, γ, ν, α and β."),
    ],
)
def test_what_is_no_such_distribution_is_refused(evidential, told):
    with pytest.raises(ValueError) as caught:
        EvidentialRegression()(torch.tensor(evidential), torch.zeros(1))
    assert str(caught.value) == f"evidential_regression: {told}"
