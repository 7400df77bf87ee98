"""Asymmetric generalised cross-entropy: GCE of a probability that an offset keeps away from 0."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.tempered import tempered_logarithm

# Beyond these, powers of them leave float32.
Offset = Annotated[float, Bound(above=0, most=100)]
Exponent = Annotated[float, Bound(above=0, most=10)]


class AGCE(CrossEntropyFunction):
    """Asymmetric generalised cross-entropy: GCE of a probability that an offset keeps away from 0.

    ``((a + 1)^q - (a + p)^q) / q`` with p the probability of the target. If most labels of similar samples are right,
    its minimum is at the right class, although it is not symmetric. It is a function of cross-entropy alone. With q = 1
    it is `MAEReduced`; towards a = 0 it is `GCE`.

    Args:
        a: the offset, above 0 and at most 100.
        q: above 0 and at most 10.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a setting outside of its range.

    Source:
        Zhou, Liu, Jiang, Gao, Ji, 2021, "Asymmetric Loss Functions for Learning with Noisy Labels", arXiv:2106.03110,
        whose code begins with a = 1, q = 2.

    Example:
        >>> AGCE(a=1.0, q=2.0)(torch.zeros(1, 4), torch.tensor([0])).item()
        1.21875
    """

    status = "confirmed"
    evidence = "hitcszx/ALFs; also Optimization-AI/ICML2023_LDR, not the authors' code"

    a: Offset = 1.0
    q: Exponent = 2.0

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return asymmetric_generalized_cross_entropy(cross_entropy, self.a, self.q)


def asymmetric_generalized_cross_entropy(
    cross_entropy: Float[Tensor, "*rows"], a: float, q: float
) -> Float[Tensor, "*rows"]:
    """``((a + 1)^q - (a + p)^q) / q`` from -log p, exact also where p is near 1."""
    log_ratio = torch.log1p(torch.expm1(-cross_entropy) / (a + 1))
    return -((a + 1) ** q) * tempered_logarithm(log_ratio, 1 - q)
