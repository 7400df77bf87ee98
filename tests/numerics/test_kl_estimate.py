"""Estimates of the KL, by enumeration of what can be sampled."""

import math

import pytest
import torch

from lightning_losses.numerics.divergences import entropy_from_logits
from lightning_losses.numerics.kl_estimate import kl_estimate


def two(seed=0, scale=0.3):
    """Logits of a policy and, near it, log-probabilities of a reference."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, dtype=torch.float64, generator=generator)
    other = logits + scale * torch.randn(5, dtype=torch.float64, generator=generator)
    return logits.requires_grad_(), other.log_softmax(0)


def expected(logits, reference, estimator):
    """Mean and variance of the estimate over the policy's own samples, and the mean of its gradient."""
    p = logits.softmax(0).detach()
    value = kl_estimate(logits.log_softmax(0), reference, estimator)
    (slope,) = torch.autograd.grad((p * value).sum(), logits)
    mean = (p * value.detach()).sum()
    return mean, (p * (value.detach() - mean).square()).sum(), slope


@pytest.mark.parametrize("seed", range(3))
def test_k1_and_k3_are_unbiased_and_k3_varies_less(seed):
    logits, reference = two(seed)
    log_p = logits.detach().log_softmax(0)
    exact = (log_p.exp() * (log_p - reference)).sum()
    k1, k3 = (expected(logits, reference, name) for name in ("k1", "k3"))
    torch.testing.assert_close(k1[0], exact)
    torch.testing.assert_close(k3[0], exact)
    assert k3[1] < k1[1] / 3


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_gradient_of_each_is_that_of_its_divergence(seed):
    logits, reference = two(seed)
    log_p = logits.log_softmax(0)
    (reverse,) = torch.autograd.grad((log_p.exp() * (log_p - reference)).sum(), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((reference.exp() * (reference - log_p)).sum(), logits)
    torch.testing.assert_close(expected(logits, reference, "k1")[2], torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(expected(logits, reference, "k2")[2], reverse)
    torch.testing.assert_close(expected(logits, reference, "k3")[2], forward)
    value, _, slope = expected(logits, reference, "k3_straight_through")
    torch.testing.assert_close(value, expected(logits, reference, "k3")[0])
    torch.testing.assert_close(slope, reverse)


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "abs", "k3_straight_through"])
def test_at_the_reference_it_is_0(name):
    logps = torch.tensor([-1.0, -3.0], dtype=torch.float64, requires_grad=True)
    value = kl_estimate(logps, logps.detach(), name)
    assert bool((value == 0).all())
    (slope,) = torch.autograd.grad(value.sum(), logps)
    assert bool((slope == (1 if name == "k1" else 0)).all())


def test_k2_and_k3_agree_to_second_order_and_k3_is_never_negative():
    d = torch.linspace(-0.01, 0.01, 101, dtype=torch.float64)
    k2, k3 = (kl_estimate(-d, torch.zeros_like(d), name) for name in ("k2", "k3"))
    assert bool(((k2 - k3).abs() <= d.abs() ** 3 / 5 + 1e-15).all()) and bool((k3 >= 0).all())


def test_clamps_hold_the_value_and_cut_the_gradient():
    logps = torch.tensor([-30.0, -12.0, -1.0], dtype=torch.float64, requires_grad=True)
    value = kl_estimate(logps, torch.zeros(3).double(), "k3", log_ratio_clamp=20.0, value_clamp=10.0)
    torch.testing.assert_close(value.detach(), torch.tensor([10.0, 10.0, math.e - 2], dtype=torch.float64))
    (slope,) = torch.autograd.grad(value.sum(), logps)
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.0, 1 - math.e], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    logps, reference = torch.tensor([-1.0, -20.0]).to(dtype), torch.tensor([-1.02, -1.0]).to(dtype)
    exact = kl_estimate(logps.double(), reference.double())
    torch.testing.assert_close(kl_estimate(logps, reference), exact.float(), rtol=1e-3, atol=0)


def test_other_shapes_are_not_broadcast():
    with pytest.raises(ValueError) as caught:
        kl_estimate(torch.zeros(3), torch.zeros(3, 1))
    assert str(caught.value) == (
        "kl_estimate: ref_logps of shape [3, 1] came with logps of shape [3]; give both of the same tokens."
    )


def test_an_unknown_estimate_is_refused():
    with pytest.raises(ValueError, match="^kl_estimate: estimator='k4' came; choose one of 'k1'"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_entropy_is_that_of_the_tempered_distribution(temperature):
    logits = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = entropy_from_logits(logits, temperature)
    torch.testing.assert_close(value, torch.distributions.Categorical(logits=logits / temperature).entropy())
    p = (logits / temperature).softmax(-1)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(slope, (-p * (p.log() + value.unsqueeze(-1)) / temperature).detach())


def test_entropy_of_a_masked_vocabulary_is_finite():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]], requires_grad=True)
    value = entropy_from_logits(logits)
    value.sum().backward()
    assert value.item() == pytest.approx(math.log(2)) and bool(logits.grad.isfinite().all())
