"""Generalised cross-entropy: between cross-entropy and the mean absolute error."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.tempered import tempered_logarithm


class GCE(CrossEntropyFunction):
    """Generalised cross-entropy: between cross-entropy and the mean absolute error.

    ``(1 - p^q) / q`` with p the probability of the target. Its gradient is p^q times that of cross-entropy: samples
    that the network finds unlikely, among them those whose label is wrong, pull less. Near q = 0 it is cross-entropy,
    at 1 it is 1 - p, half the mean absolute error. It is a function of cross-entropy alone.

    Args:
        q: above 0 and at most 1; the larger, the less wrong labels are learned, and the slower the right ones.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction; at most 1/q a row.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; q outside of its range.

    Source:
        Zhang, Sabuncu, 2018, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
        arXiv:1805.07836, with q = 0.7. Implementations that raise p to at least 1e-7 have no gradient below that; this
        one has.

    Example:
        >>> import torch
        >>> round(GCE(q=0.5)(torch.zeros(1, 4), torch.tensor([0])).item(), 4)
        1.0
    """

    status = "paper"
    evidence = "HanxunH/Active-Passive-Losses, not the authors' code"

    q: Annotated[float, Bound(above=0, most=1)] = 0.7

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return -tempered_logarithm(-cross_entropy, 1 - self.q)
