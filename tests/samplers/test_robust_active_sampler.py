import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from lightning_losses.samplers import robust_active_distribution


@pytest.mark.parametrize("seed", range(3))
def test_it_solves_the_game(seed):
    """As a linear program: the m largest terms sum to the least of m t + sum of what exceeds t."""
    gain = np.random.default_rng(seed).uniform(0.1, 2, 7)
    m, n = 2, len(gain)
    # Variables q, t, excess: maximise sum(q g) - m t - sum(excess), excess_i >= q_i g_i - t, excess_i >= 0.
    objective = np.concatenate([-gain, [m], np.ones(n)])
    bounds = [(0, None)] * n + [(0, None)] + [(0, None)] * n
    excess = np.hstack([np.diag(gain), -np.ones((n, 1)), -np.eye(n)])
    best = linprog(objective, A_ub=excess, b_ub=np.zeros(n), A_eq=[[1] * n + [0] * (n + 1)], b_eq=[1], bounds=bounds)
    result = robust_active_distribution(torch.from_numpy(gain), m)
    assert result.value.item() == pytest.approx(-best.fun, rel=1e-9)
    assert result.probabilities.sum().item() == pytest.approx(1)


def test_terms_are_equal_on_the_support():
    gain = torch.rand(10, dtype=torch.float64) + 0.1
    result = robust_active_distribution(gain, 3)
    terms = (result.probabilities * gain)[result.probabilities > 0]
    assert len(terms) == result.support
    torch.testing.assert_close(terms, terms[:1].expand(len(terms)))


def test_small_gains_of_half_precision_are_numbers():
    gain = torch.tensor([1e-5, 2e-5, 1.0]).half()
    torch.testing.assert_close(robust_active_distribution(gain, 1), robust_active_distribution(gain.float(), 1))


def test_a_perfect_teacher_is_asked_about_the_largest_gain():
    assert robust_active_distribution(torch.tensor([1.0, 3.0, 2.0]), 0).probabilities.tolist() == [0.0, 1.0, 0.0]


def test_a_hopeless_teacher_leaves_the_uniform_distribution():
    result = robust_active_distribution(torch.tensor([1.0, 3.0]), 2)
    assert result.probabilities.tolist() == [0.5, 0.5] and result.value.item() == 0


@pytest.mark.parametrize("gain, errors", [(torch.tensor([1.0, 0.0]), 1), (torch.ones(2, 2), 1), (torch.ones(2), -1)])
def test_bad_input_is_refused(gain, errors):
    with pytest.raises(ValueError, match="^robust_active_sampler: "):
        robust_active_distribution(gain, errors)
