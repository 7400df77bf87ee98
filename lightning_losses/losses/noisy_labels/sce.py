"""Symmetric cross-entropy: cross-entropy and its reverse."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.losses.noisy_labels.rce import LOG_OF_ZERO, LogOfZero, reverse_cross_entropy
from lightning_losses.numerics.settings import Weight


class SCE(CrossEntropyFunction):
    """Symmetric cross-entropy: cross-entropy and its reverse.

    ``-α log p - β A (1 - p)`` with p the probability of the target: cross-entropy, which learns fast, and `RCE`, which
    wrong labels mislead less. It is a function of cross-entropy alone.

    Args:
        alpha: α, weight of cross-entropy, at least 0.
        beta: β, weight of reverse cross-entropy, at least 0.
        log_of_zero: A, below 0, as of `RCE`.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a setting outside of its range.

    Source:
        Wang, Ma, Chen, Luo, Yi, Bailey, 2019, "Symmetric Cross Entropy for Robust Learning with Noisy Labels",
        arXiv:1908.06112, with α = 0.1, β = 1 for CIFAR-10, α = 6, β = 0.1 for CIFAR-100. The paper has A = -4,
        implementations log 1e-4 = -9.21, which is the default.

    Example:
        >>> import torch
        >>> round(SCE(alpha=1.0, beta=1.0, log_of_zero=-4.0)(torch.zeros(1, 4), torch.tensor([0])).item(), 4)
        4.3863
    """

    status = "paper"
    evidence = "HanxunH/Active-Passive-Losses, not the authors' code"

    alpha: Weight = 0.1
    beta: Weight = 1.0
    log_of_zero: LogOfZero = LOG_OF_ZERO

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return self.alpha * cross_entropy + self.beta * reverse_cross_entropy(cross_entropy, self.log_of_zero)
