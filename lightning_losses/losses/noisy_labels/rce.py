"""Reverse cross-entropy: cross-entropy in which label and prediction change places."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.settings import Bound

# What the authors' codes take the logarithm of 0 for.
LOG_OF_ZERO = math.log(1e-4)

LogOfZero = Annotated[float, Bound(below=0)]


class RCE(CrossEntropyFunction):
    """Reverse cross-entropy: cross-entropy in which label and prediction change places.

    ``-sum_k p_k log e_k = -A (1 - p)``, with the one-hot target e, in which log 0 counts as A, and p the probability of
    the target. It is -A times `MAEReduced`: a function of cross-entropy alone, and robust to symmetric noise.

    Args:
        log_of_zero: A, below 0.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction; in [0, -A].

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; an A that is not below 0.

    Source:
        Wang, Ma, Chen, Luo, Yi, Bailey, 2019, "Symmetric Cross Entropy for Robust Learning with Noisy Labels",
        arXiv:1908.06112. The paper has A = -4, implementations log 1e-4 = -9.21, which is the default.

    Example:
        >>> RCE(log_of_zero=-4.0)(torch.zeros(1, 4), torch.tensor([0])).item()
        3.0
    """

    status = "paper"
    evidence = "HanxunH/Active-Passive-Losses, not the authors' code"

    log_of_zero: LogOfZero = LOG_OF_ZERO

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return reverse_cross_entropy(cross_entropy, self.log_of_zero)


def reverse_cross_entropy(cross_entropy: Float[Tensor, "*rows"], log_of_zero: float) -> Float[Tensor, "*rows"]:
    """``-A (1 - p)`` from -log p."""
    return log_of_zero * torch.expm1(-cross_entropy)
