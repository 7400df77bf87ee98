import pytest
import torch

from lightning_losses.numerics.divergence_weights import f_divergence_weight

LOG_RATIO = torch.linspace(-3, 3, 13, dtype=torch.float64)
# Generators of the divergences under q, f(r) with r = p/q.
GENERATORS = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "js": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "squared_hellinger": lambda r: 1 - r.sqrt(),
    "softened_reverse_kl": lambda r: (r + 1) * ((r + 1) / (2 * r)).log(),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_weight_is_the_curvature_of_its_generator(name):
    r = LOG_RATIO.exp().requires_grad_()
    (slope,) = torch.autograd.grad(GENERATORS[name](r).sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(f_divergence_weight(LOG_RATIO, name), (r.square() * curvature).detach())


@pytest.mark.parametrize("name", GENERATORS)
def test_it_turns_the_gradient_of_the_reverse_divergence_into_that_of_another(name):
    """Of a student that is a normal distribution with a mean to learn: its samples move with it."""
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)

    def normal(mean, width):
        return torch.distributions.Normal(mean, width)

    shift = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    log_q = normal(shift, torch.tensor(1.0, dtype=torch.float64)).log_prob(grid)
    log_p = normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)).log_prob(grid)
    step = grid[1] - grid[0]
    divergence = (log_q.exp() * GENERATORS[name]((log_p - log_q).exp())).sum() * step
    (wanted,) = torch.autograd.grad(divergence, shift)
    ratio = (log_p - log_q).detach()
    # The score difference along the support, of a sample that moves with the shift.
    score_gap = -(grid - shift.detach()) + grid / 1.3**2
    found = (log_q.detach().exp() * f_divergence_weight(ratio, name) * score_gap).sum() * step
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", GENERATORS)
def test_it_is_finite_and_without_gradient(name):
    extreme = torch.tensor([-1e4, 1e4, -torch.inf, torch.inf], requires_grad=True)
    weight = f_divergence_weight(extreme, name)
    assert torch.isfinite(weight).all() and not weight.requires_grad
    assert f_divergence_weight(torch.zeros(2, dtype=torch.bfloat16), name).dtype == torch.float32


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="^f_divergence_weight: divergence='kl' came; choose one of 'reverse_kl', "):
        f_divergence_weight(LOG_RATIO, "kl")
