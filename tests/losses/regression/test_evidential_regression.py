import pytest
import torch

from lightning_losses.losses import EvidentialRegression
from lightning_losses.losses.regression.evidential_regression import evidential_uncertainty

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
