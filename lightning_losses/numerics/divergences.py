"""Divergences and entropies per row; classes that are masked by -inf add nothing."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.numerics.probabilities import known_finite
from lightning_losses.numerics.rows import pick


def weighted_sum(
    weights: Float[Tensor, "*rows classes"], values: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """``sum_k weights_k values_k``, where classes whose value is infinite (masked in either network) add nothing."""
    if values.device.type == "cpu":
        total = (weights * values).sum(dim=-1)
        if known_finite(total):
            return total
    # Cheaper than torch.isfinite, which walks over the values four times.
    finite = values.detach().abs() < torch.inf
    return (weights * torch.where(finite, values, 0.0)).sum(dim=-1)


def expectation(
    log_p: Float[Tensor, "*rows classes"], values: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """``sum_k p_k values_k``, where classes whose value is infinite (masked in either network) add nothing."""
    return weighted_sum(log_p.exp(), values)


def kl_divergence(
    log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """``KL(p || q) = sum_k p_k (log p_k - log q_k)`` per row; classes masked by -inf in either add nothing."""
    return expectation(log_p, log_p - log_q)


class Divergences(NamedTuple):
    """The divergences of two distributions in both directions, per row."""

    forward: Float[Tensor, "*rows"]
    reverse: Float[Tensor, "*rows"]


def kl_divergences(log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]) -> Divergences:
    """``KL(p || q)`` and ``KL(q || p)`` per row, from one difference; see `kl_divergence`."""
    difference = log_p - log_q
    return Divergences(expectation(log_p, difference), -expectation(log_q, difference))


def cross_entropy(log_p: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "*rows"]:
    """``-sum_k q_k log p_k`` per row, q being the one-hot (or given) target; classes with q = 0 add nothing."""
    if not target.is_floating_point():
        return -pick(log_p, target)
    if log_p.device.type == "cpu":
        total = -(target * log_p).sum(dim=-1)
        if known_finite(total):
            return total
    return -(target * log_p.masked_fill(target == 0, 0.0)).sum(dim=-1)


def entropy(log_p: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows"]:
    """``-sum_k p_k log p_k`` per row, in nats."""
    return -expectation(log_p, log_p)
