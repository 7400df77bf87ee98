import math

import pytest
import torch

from lightning_losses.losses import ContrastiveEntropyOOD


def views():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(2))


def test_value_from_the_definition():
    states, frozen = views()
    rows = []
    for state in states:
        share = torch.stack([(state * other).sum() for other in frozen]).softmax(0)
        rows.append(-sum(float(s) * math.log(float(s) + 1e-5) for s in share))
    assert math.isclose(ContrastiveEntropyOOD()(states, frozen).item(), sum(rows) / 5, rel_tol=1e-12)


def test_any_sample_may_be_chosen():
    # The diagonal is not told to win.
    states, frozen = views()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(ContrastiveEntropyOOD()(states, frozen), ContrastiveEntropyOOD()(states, frozen[order]))


def test_its_ends_and_extremes():
    states, frozen = views()
    sure = ContrastiveEntropyOOD(eps=0.0)(1e6 * states, frozen)
    assert abs(sure) < 1e-6
    torch.testing.assert_close(ContrastiveEntropyOOD(eps=0.0)(0 * states, frozen), torch.tensor(math.log(5)).double())


def test_the_frozen_view_has_no_gradient():
    states, frozen = (view.requires_grad_() for view in views())
    ContrastiveEntropyOOD()(states, frozen).backward()
    assert frozen.grad is None and states.grad.abs().max() > 0


def test_products_that_would_overflow_are_refused():
    with pytest.raises(ValueError, match=r"target_embeddings holds 1e\+30; give numbers up to"):
        ContrastiveEntropyOOD()(torch.ones(2, 1), torch.full((2, 1), 1e30))
