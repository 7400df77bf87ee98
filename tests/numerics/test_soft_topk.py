import pytest
import torch

from lightning_losses.numerics.soft_topk import log_soft_topk, soft_topk

SCORES = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("k", [1, 3, 6])
def test_it_adds_up_to_k_and_is_sigmoids_about_one_threshold(k):
    chosen = soft_topk(SCORES, k, alpha=1.5)
    torch.testing.assert_close(chosen.sum(dim=-1), torch.full((3,), float(k), dtype=torch.float64))
    thresholds = torch.logit(chosen) / 1.5 - SCORES
    torch.testing.assert_close(thresholds, thresholds[:, :1].expand(3, 7))


def test_the_product_with_its_jacobian_is_that_of_the_exact_threshold():
    scores = SCORES.clone().requires_grad_()
    chosen = soft_topk(scores, 3)
    cotangent = torch.linspace(-1, 1, 21, dtype=torch.float64).view(3, 7)
    v = 2.0 * chosen * (1 - chosen)
    expected = v * cotangent - v * (v * cotangent).sum(dim=-1, keepdim=True) / v.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(torch.autograd.grad(chosen, scores, cotangent)[0], expected.detach())
    assert torch.autograd.gradgradcheck(lambda x: log_soft_topk(x, 3), scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sharp_choice_is_that_of_the_k_largest(dtype):
    scores = (1e4 * SCORES).to(dtype).requires_grad_()
    log_chosen = log_soft_topk(scores, 3)
    hard = torch.zeros(3, 7, dtype=dtype).scatter(1, scores.topk(3).indices, 1.0)
    assert torch.equal(log_chosen.exp(), hard)
    assert bool(log_chosen.isfinite().all() & torch.autograd.grad(log_chosen.sum(), scores)[0].isfinite().all())


def test_what_is_masked_is_not_chosen_and_few_are_all():
    masked = SCORES.masked_fill(torch.tensor([False, True, False, True, False, False, False]), -torch.inf)
    torch.testing.assert_close(soft_topk(masked, 3)[:, [0, 2, 4, 5, 6]], soft_topk(SCORES[:, [0, 2, 4, 5, 6]], 3))
    assert soft_topk(masked, 5)[0].tolist() == soft_topk(masked, 6)[0].tolist() == [1, 0, 1, 0, 1, 1, 1]


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"^soft_topk: k=7 came for scores of shape \[3, 7\]; give more than k"):
        soft_topk(SCORES, 7)
