"""Barlow Twins: the features of two views shall correlate each with itself, and with no other."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import TwoViewLoss, Views
from lightning_losses.numerics.settings import Weight
from lightning_losses.numerics.vectors import off_diagonal_squares, standardised

_EPS = 1e-5


def correlation_error(
    first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"], redundancy_weight: float
) -> Float[Tensor, ""]:
    """How far the cross-correlation of standardised features is from the identity."""
    correlation = first.mT @ second / len(first)
    return (correlation.diagonal() - 1).square().sum() + redundancy_weight * off_diagonal_squares(correlation)


class BarlowTwins(TwoViewLoss):
    """Barlow Twins: the features of two views shall correlate each with itself, and with no other.

    ``sum_i (C_ii - 1)² + λ sum_{i ≠ j} C_ij²`` with ``C = A^T B / N`` of the standardised embeddings A and B. The
    batch is that of all processes. The value takes D² memory.

    Args:
        redundancy_weight: λ, at least 0.
        std: "biased_eps" divides by the root of the biased variance plus 1e-5, as batch norm does; "unbiased" by the
            unbiased standard deviation, as other implementations do: then ``C_ii = (N - 1) / N`` for equal views, and
            a constant feature counts as 0.

    Shapes:
        embeddings, embeddings_b: [B, D].

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit; a weight below 0; another `std`.

    Source:
        Zbontar, Jing, Misra, LeCun, Deny, 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
        arXiv:2103.03230, and its code facebookresearch/barlowtwins, whose λ this is. The paper divides by the standard
        deviation without eps. Over processes the code's gradient is right up to a factor; here it is that of one
        process.

    Example:
        >>> import torch
        >>> view = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> BarlowTwins()(view, 3 * view + 1).item() < 1e-9
        True
    """

    status = "confirmed"
    evidence = "facebookresearch/barlowtwins"

    redundancy_weight: Weight = 0.0051
    std: Literal["biased_eps", "unbiased"] = "biased_eps"

    def measure(self, given: Views) -> Float[Tensor, ""]:
        """The distance of the cross-correlation from the identity."""
        biased = self.std == "biased_eps"
        first, second = (standardised(view, unbiased=not biased, eps=_EPS if biased else 0.0) for view in given)
        return correlation_error(first, second, self.redundancy_weight)
