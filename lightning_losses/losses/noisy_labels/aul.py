"""Asymmetric unhinged loss: a power of the distance between the target's probability and a number above 1."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.losses.noisy_labels.agce import Exponent
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.tempered import tempered_logarithm


class AUL(CrossEntropyFunction):
    """Asymmetric unhinged loss: a power of the distance between the target's probability and a number above 1.

    ``((a - p)^q - (a - 1)^q) / q`` with p the probability of the target. If most labels of similar samples are right,
    its minimum is at the right class, although it is not symmetric. It is a function of cross-entropy alone. With q = 1
    it is `MAEReduced`.

    Args:
        a: above 1 and at most 100.
        q: above 0 and at most 10.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a setting outside of its range.

    Source:
        Zhou, Liu, Jiang, Gao, Ji, 2021, "Asymmetric Loss Functions for Learning with Noisy Labels", arXiv:2106.03110,
        whose code calls it AUE and begins with a = 1.5, q = 0.9.

    Example:
        >>> AUL(a=2.0, q=2.0)(torch.zeros(1, 4), torch.tensor([0])).item()
        1.03125
    """

    status = "confirmed"
    evidence = "hitcszx/ALFs; also Optimization-AI/ICML2023_LDR, not the authors' code"

    a: Annotated[float, Bound(above=1, most=100)] = 1.5
    q: Exponent = 0.9

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        least, missing = self.a - 1, -torch.expm1(-cross_entropy)
        # With the larger power in front, the other one is a share of it, of any size.
        log_share = -torch.log1p(missing / least)
        return -((least + missing) ** self.q) * tempered_logarithm(log_share, 1 - self.q)
