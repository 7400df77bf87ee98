import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from lightning_losses.losses import MIAlpha


def scores(n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, n, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("marginal", ["all", "others"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_value_from_the_definition(alpha, marginal):
    f, log_q = scores(), scores()[0]
    normaliser = alpha * f.exp().mean(dim=0) + (1 - alpha) * log_q.exp()
    ratio = f.exp() / normaliser
    pairs = ratio.mean() if marginal == "all" else (ratio.sum() - ratio.diagonal().sum()) / 20
    expected = 1 + (f.diagonal() - normaliser.log()).mean() - pairs
    torch.testing.assert_close(MIAlpha(alpha, marginal).bound(f, log_q), expected)


@given(st.integers(0, 2**31))
def test_all_of_alpha_is_infonce(seed):
    f = scores(seed=seed)
    infonce = math.log(5) + torch.log_softmax(f, dim=0).diagonal().mean()
    bound = MIAlpha(alpha=1.0).bound(f, torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(bound, infonce)
    assert bound.item() <= math.log(5) + 1e-12


def test_none_of_alpha_can_exceed_the_logarithm_of_the_batch():
    """Nguyen, Wainwright and Jordan's bound at its best critic: log of the density ratio, which here is 12."""
    f = torch.full((3, 3), -torch.inf, dtype=torch.float64).fill_diagonal_(12.0)
    # Others never come with this teacher: their scores add nothing, so that the bound is 1 + 12.
    bound = MIAlpha(alpha=0.0, marginal="others").bound(f, torch.zeros(3, dtype=torch.float64))
    assert bound.item() == pytest.approx(13)
    assert bound.item() > math.log(3)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_large_scores_stay_finite(alpha):
    f = (300 * torch.eye(4)).requires_grad_()
    value = MIAlpha(alpha=alpha).bound(f, torch.full((4,), 300.0))
    (slope,) = torch.autograd.grad(value, f)
    assert torch.isfinite(value) and bool(torch.isfinite(slope).all())


def test_training_it_finds_shared_information():
    torch.manual_seed(0)
    shared = torch.randn(64, 2)
    loss = MIAlpha(alpha=0.5, embedding_dim=8)
    loss(shared, shared)
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(shared, shared)
        value.backward()
        optimizer.step()
    # Independent features share nothing: the bound stays about or below 0 there.
    assert -value.item() > 0.5 > -loss(shared, shared.flip(0)).item()


def test_options_and_shapes_are_checked():
    with pytest.raises(ValueError, match="^mi_alpha: alpha=2"):
        MIAlpha(alpha=2)
    with pytest.raises(ValueError, match="^mi_alpha: marginal='none'"):
        MIAlpha(marginal="none")
    with pytest.raises(ValueError, match=r"^mi_alpha: teacher_features of shape \[4, 3\]"):
        MIAlpha()(torch.zeros(5, 3), torch.zeros(4, 3))
