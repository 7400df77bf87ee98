"""Divergences and entropies per row of log-probabilities.

Where a class is masked by -inf in one distribution alone, a divergence may be infinite. Its logarithm then counts as
-100 (`LOG_OF_ZERO`), so that the value is finite, at least 0, and larger the more probability the other one has there.
Nothing else is replaced: what is not a number stays so.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_temperature
from lightning_losses.numerics.probabilities import (
    finite_logarithms,
    full_precision,
    known_finite,
    log_probabilities,
)
from lightning_losses.numerics.rows import pick


def over_finite_logarithms(
    formula: Callable[..., Float[Tensor, "..."]], *logarithms: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "..."]:
    """A formula of log-probabilities, each -inf of which counts as -100 where the result would not be finite.

    Example:
        >>> half, log_q = torch.full((2,), 0.5), torch.tensor([0.0, -torch.inf])
        >>> over_finite_logarithms(lambda log_q: (half * log_q).sum(), log_q).item()
        -50.0
    """
    if logarithms[0].device.type == "cpu":
        value = formula(*logarithms)
        if known_finite(value):
            return value
    return formula(*map(finite_logarithms, logarithms))


def at_least_zero(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A finite value, 0 where rounding made it less, with the derivatives of the value.

    Example:
        >>> at_least_zero(torch.tensor([-1e-9, 2.0]))
        tensor([0., 2.])
    """
    constant = value.detach()
    return value + (constant.clamp(min=0.0) - constant)


def weighted_sum(
    weights: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """``sum_k weights_k log q_k``."""
    return over_finite_logarithms(lambda log_q: (weights * log_q).sum(dim=-1), log_q)


def weighted_log_ratio(
    weights: Float[Tensor, "*rows classes"],
    log_p: Float[Tensor, "*rows classes"],
    log_q: Float[Tensor, "*rows classes"],
) -> Float[Tensor, "*rows"]:
    """``sum_k weights_k log(p_k / q_k)``."""
    return over_finite_logarithms(lambda log_p, log_q: (weights * (log_p - log_q)).sum(dim=-1), log_p, log_q)


def expectation(log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows"]:
    """``sum_k p_k log q_k``."""
    return weighted_sum(log_p.exp(), log_q)


def kl_divergence(
    log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """``KL(p || q) = sum_k p_k (log p_k - log q_k)``.

    In single precision the logarithms are rounded by some 1e-6. Equal ones give 0; else the value is off by up to 1e-6,
    also below 0, which matters where it is below 1e-4 (logits that differ by 0.01). Factors such as τ², or DKD's β,
    multiply that, for which losses above τ = 64 are evaluated in float64. The gradient p - q has no such error; take
    float64 to report values as small as these.

    Example:
        >>> masked = torch.tensor([0.0, -torch.inf])
        >>> half = torch.full((2,), 0.5).log()
        >>> [round(kl_divergence(*pair).item(), 4) for pair in ((masked, half), (half, masked), (masked, masked))]
        [0.6931, 49.3069, 0.0]
    """
    return weighted_log_ratio(log_p.exp(), log_p, log_q)


class Divergences(NamedTuple):
    """The divergences of two distributions in both directions, per row."""

    forward: Float[Tensor, "*rows"]
    reverse: Float[Tensor, "*rows"]


def kl_divergences(log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]) -> Divergences:
    """``KL(p || q)`` and ``KL(q || p)``, from one difference; see `kl_divergence`."""
    p, q = log_p.exp(), log_q.exp()

    def both(log_p: Tensor, log_q: Tensor) -> Tensor:
        difference = log_p - log_q
        return torch.stack([(p * difference).sum(dim=-1), -(q * difference).sum(dim=-1)])

    return Divergences(*over_finite_logarithms(both, log_p, log_q))


def cross_entropy(log_p: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "*rows"]:
    """``-sum_k q_k log p_k``, q being the one-hot (or given) target; infinite where q has mass that p rules out."""
    if not target.is_floating_point():
        return -pick(log_p, target)
    if log_p.device.type == "cpu":
        total = -(target * log_p).sum(dim=-1)
        if known_finite(total):
            return total
    absent = (target == 0) & torch.isneginf(log_p)
    return -(target * log_p.masked_fill(absent, 0.0)).sum(dim=-1)


def entropy(log_p: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows"]:
    """``-sum_k p_k log p_k``, in nats."""
    return -expectation(log_p, log_p)


def entropy_from_logits(logits: Float[Tensor, "*rows classes"], temperature: float = 1.0) -> Float[Tensor, "*rows"]:
    """The entropy of ``softmax(logits / temperature)``, in nats, differentiable; a class at -inf adds nothing.

    Example:
        >>> entropy_from_logits(torch.tensor([0.0, 0.0, -torch.inf]))
        tensor(0.6931)
    """
    check_temperature("entropy_from_logits", temperature)
    return entropy(log_probabilities(full_precision(logits), temperature))


def alpha_beta_terms(
    log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"], alpha: float, beta: float
) -> Float[Tensor, "*rows classes"]:
    """``-(p^α q^β - α/(α+β) p^(α+β) - β/(α+β) q^(α+β)) / (α β)`` of finite logarithms, and its limits.

    Each is ``log(p/q)²`` times the second divided difference of the exponential function at (α+β) log q, α log p + β
    log q and (α+β) log p. Taken as that, it has no cancellation where an exponent, or their sum, is near 0.

    Example:
        >>> log_p, log_q = torch.tensor([1.0, 2.0])
        >>> [round(alpha_beta_terms(log_p, log_q, alpha, 0.0).item(), 6) for alpha in (1.0, 1e-9)]
        [1.952493, 0.5]
    """
    difference = log_p - log_q
    offsets = torch.stack([torch.zeros_like(difference), alpha * difference, (alpha + beta) * difference])
    low, middle, high = offsets.sort(dim=0).values
    return difference.square() * _exponential_difference((alpha + beta) * log_q, low, middle, high)


def _exponential_difference(
    anchor: Float[Tensor, "*shape"],
    low: Float[Tensor, "*shape"],
    middle: Float[Tensor, "*shape"],
    high: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """The second divided difference of exp at three points, which come as their distance from an anchor."""
    width = high - low
    # Far apart: the difference of two first ones, each of which is exp at its right end times `_fading`.
    right, left = (anchor + high).exp() * _fading(high - middle), (anchor + middle).exp() * _fading(middle - low)
    apart = (right - left) / width.clamp(min=1.0)
    # Near each other: Taylor's series about the centre, over the complete symmetric polynomials of the distances.
    near, centre = width < 1, (low + high) / 2
    x, y, z = (torch.where(near, point - centre, 0.0) for point in (low, middle, high))
    sums, pairs, product = x + y + z, x * y + y * z + z * x, x * y * z
    before, last, newest = torch.zeros_like(x), torch.zeros_like(x), torch.ones_like(x)
    total, factor = newest / 2, 0.5
    for order in range(1, 17):
        before, last, newest = last, newest, sums * newest - pairs * last + product * before
        factor /= order + 2
        total = total + factor * newest
    return torch.where(near, (anchor + torch.where(near, centre, 0.0)).exp() * total, apart)


def _fading(gap: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``(1 - e^-gap) / gap`` of gaps of at least 0."""
    small = gap < 1e-2
    series = 1 - gap / 2 * (1 - gap / 3 * (1 - gap / 4 * (1 - gap / 5 * (1 - gap / 6))))
    wide = gap.masked_fill(small, 1.0)
    return torch.where(small, series, -torch.expm1(-wide) / wide)
