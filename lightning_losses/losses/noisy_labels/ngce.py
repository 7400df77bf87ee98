"""Normalised generalised cross-entropy: the target's share of what all labels would cost by GCE."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.losses.noisy_labels.nce import normalized
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.tempered import tempered_logarithm


class NGCE(ClassificationLoss):
    """Normalised generalised cross-entropy: `GCE` of the target, divided by the sum over all possible labels.

    ``(1 - p_y^q) / sum_k (1 - p_k^q)``. Its values over all labels of a sample add up to 1, whatever the network says.
    Near q = 0 it is `NCE`, at 1 it is `MAEReduced` divided by C - 1.

    Args:
        q: above 0 and at most 1.

    Shapes:
        logits: [..., C]; target: [...] class indices. A class that is masked by -inf is left out of the sum.

    Returns:
        A scalar, or [...] without reduction; in [0, 1].

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; q outside of its range.

    Source:
        Ma, Huang, Wang, Romano, Erfani, Bailey, 2020, "Normalized Loss Functions for Deep Learning with Noisy Labels",
        arXiv:2006.13554, whose code has it; q = 0.7 is that of `GCE`.

    Example:
        >>> import torch
        >>> NGCE()(torch.zeros(1, 4), torch.tensor([0])).item()
        0.25
    """

    status = "confirmed"
    evidence = "HanxunH/Active-Passive-Losses"
    soft_targets = False

    q: Annotated[float, Bound(above=0, most=1)] = 0.7

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return normalized(
            lambda log_p: -tempered_logarithm(log_p, 1 - self.q), log_probabilities(given.logits), given.target
        )
