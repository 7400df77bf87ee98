import pytest
import torch

from lightning_losses.losses import ReferenceKL

DRAW = torch.Generator().manual_seed(0)
LOGPS, REF = (-torch.rand(4, 3, dtype=torch.float64, generator=DRAW) for _ in range(2))
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 1, 0]])
P, Q = (torch.randn(6, dtype=torch.float64, generator=DRAW).log_softmax(dim=0) for _ in range(2))
ESTIMATORS = ["k1", "k2", "k3", "abs", "k3_straight_through", "score"]


@pytest.mark.parametrize("over", ["token", "completion"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_value_from_the_definition(estimator, over):
    each = []
    for i in range(4):
        r = (LOGPS[i] - REF[i])[MASK[i] != 0]
        k3 = torch.exp(-r) - 1 + r
        values = {"k1": r, "k2": r**2 / 2, "k3": k3, "abs": r.abs(), "k3_straight_through": k3, "score": r}[estimator]
        each.append(values.mean() if over == "token" else values.sum())
    torch.testing.assert_close(ReferenceKL(estimator, over)(LOGPS, REF, MASK), torch.stack(each).mean())


def over_all_tokens(estimator, logits):
    """The expected value and gradient of one token that the policy drew."""
    log_p, loss = logits.log_softmax(dim=0), ReferenceKL(estimator)
    value, slope = 0.0, torch.zeros_like(logits)
    for x in range(6):
        one = loss(log_p[x].view(1, 1), Q[x].view(1, 1))
        value += log_p.detach()[x].exp() * one.detach()
        slope += log_p.detach()[x].exp() * torch.autograd.grad(one, logits, retain_graph=True)[0]
    return value, slope


def test_what_is_expected_of_each():
    logits = P.clone().requires_grad_()
    log_p = logits.log_softmax(dim=0)
    kl = (log_p.exp() * (log_p - Q)).sum()
    (reverse,) = torch.autograd.grad(kl, logits, retain_graph=True)
    (forward,) = torch.autograd.grad((Q.exp() * (Q - log_p)).sum(), logits)
    slopes = {"k1": torch.zeros(6, dtype=torch.float64), "k2": reverse, "k3": forward}
    slopes |= {"k3_straight_through": reverse, "score": reverse}
    for estimator, expected in slopes.items():
        value, slope = over_all_tokens(estimator, logits)
        torch.testing.assert_close(slope, expected)
        if estimator != "k2":
            torch.testing.assert_close(value, kl.detach())


def test_k3_is_at_least_0_and_varies_less():
    near = (P + 0.1 * Q.flip(0)).log_softmax(dim=0)
    k1, k3 = (ReferenceKL(name, reduction="none")(P.unsqueeze(1), near.unsqueeze(1)) for name in ("k1", "k3"))
    weight = P.exp()
    spread = [(weight * (each - (weight * each).sum()).square()).sum() for each in (k1, k3)]
    assert (k3 >= 0).all() and spread[1] < 0.1 * spread[0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_at_the_reference_it_is_0(estimator):
    assert ReferenceKL(estimator)(LOGPS, LOGPS, MASK) == 0


def test_the_score_of_a_whole_completion_weighs_each_of_its_tokens_by_all():
    leaf = LOGPS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ReferenceKL("score", "completion")(leaf, REF, MASK), leaf)
    kept = (MASK != 0).double()
    torch.testing.assert_close(slope, kept * ((LOGPS - REF) * kept).sum(dim=1, keepdim=True) / 4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_far_from_the_reference_it_is_finite_and_pulls_back(estimator):
    for far in (-1e4, -torch.inf):
        leaf = torch.tensor([[far]], requires_grad=True)
        value = ReferenceKL(estimator)(leaf, torch.tensor([[-1.0]]))
        (slope,) = torch.autograd.grad(value, leaf)
        assert torch.isfinite(value) and torch.isfinite(slope).all()
        # A policy that has too little of a sampled token makes it likelier, unless the estimate has no such pull.
        assert estimator == "k1" or slope < 0 or far == -torch.inf


def test_a_reference_that_is_missing_is_refused():
    with pytest.raises(ValueError, match="^reference_kl: ref_logps is a NoneType; give a floating-point tensor"):
        ReferenceKL()(torch.zeros(2, 3), None)


def test_completions_without_a_token_are_left_out():
    mask = MASK.clone()
    mask[1] = 0
    rows = [0, 2, 3]
    torch.testing.assert_close(ReferenceKL()(LOGPS, REF, mask), ReferenceKL()(LOGPS[rows], REF[rows], MASK[rows]))
    assert ReferenceKL().denominator(logps=LOGPS, completion_mask=mask) == 3
