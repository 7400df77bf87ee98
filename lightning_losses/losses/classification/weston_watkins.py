"""Weston and Watkins' hinge loss: how far the other classes violate a margin, on average."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.classification.crammer_singer import margin_violations
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.settings import NonNegative


class WestonWatkins(ClassificationLoss):
    """Weston and Watkins' hinge loss: how far the other classes violate a margin, on average.

    ``(1/C) sum_{k != y} max(0, z_k - z_y + c)``: 0 where the target's logit is larger than every other by c.

    Args:
        margin: c, at least 0.

    Shapes:
        logits: [..., C]; target: [...] class indices. A class that is masked by -inf is none of the C.

    Returns:
        A scalar, or [...] without reduction; at least 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a margin below 0.

    Source:
        Weston, Watkins, 1999, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN. The sum is the
        usual form; this divides it by C, as torch's `multi_margin_loss` does, so that a learning rate suits any
        number of classes.

    Example:
        >>> WestonWatkins()(torch.tensor([[1.0, 0.5, -0.5, 1.0]]), torch.tensor([0])).item()
        0.375
    """

    status = "paper"
    evidence = "Optimization-AI/ICML2023_LDR, not the authors' code"
    soft_targets = False

    margin: NonNegative = 1.0

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        violations = margin_violations(given.logits, given.target, self.margin)
        return violations.sum(dim=-1) / (~torch.isneginf(given.logits)).sum(dim=-1)
