"""Comp-sum losses: one family from the sum-exponential loss over cross-entropy to the absolute error."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.tempered import tempered_logarithm


class CompSum(CrossEntropyFunction):
    """Comp-sum losses: one family from the sum-exponential loss over cross-entropy to the absolute error.

    ``(S^(1-τ) - 1) / (1 - τ)`` with ``S = sum_k exp(z_k - z_y) = 1/p``, p the probability of the target. τ = 0 is the
    sum-exponential loss 1/p - 1, 1 is cross-entropy, between 1 and 2 it is `GCE` with q = τ - 1, and 2 is `MAEReduced`.
    Its gradient is p^(τ-1) times that of cross-entropy: the larger τ, the less the samples with an unlikely target
    count. It is a function of cross-entropy alone.

    Args:
        tau: τ, at least 0 and at most 10.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction. Where (1 - τ) times the cross-entropy exceeds 60, the value goes on in a
        straight line in that, so that it and its gradient stay finite.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a τ outside of its range.

    Source:
        Mao, Mohri, Zhong, 2023, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
        arXiv:2304.07288.

    Example:
        >>> import torch
        >>> [CompSum(tau=tau)(torch.zeros(1, 4), torch.tensor([0])).item() for tau in (0, 2)]
        [3.0, 0.75]
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"

    tau: Annotated[float, Bound(least=0, most=10)] = 1.0

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return tempered_logarithm(cross_entropy, self.tau)
