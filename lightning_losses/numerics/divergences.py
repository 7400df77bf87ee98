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

from lightning_losses.numerics.probabilities import finite_logarithms, known_finite
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
