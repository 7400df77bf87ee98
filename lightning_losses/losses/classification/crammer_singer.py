"""Crammer and Singer's hinge loss: how far the strongest other class violates a margin."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import NonNegative


class CrammerSinger(ClassificationLoss):
    """Crammer and Singer's hinge loss: how far the strongest other class violates a margin.

    ``max(0, max_{k != y} z_k - z_y + c)``: 0 where the target's logit is larger than every other by c.

    Args:
        margin: c, at least 0.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction; at least 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a margin below 0.

    Source:
        Crammer, Singer, 2001, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines", Journal
        of Machine Learning Research 2.

    Example:
        >>> CrammerSinger()(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([0])).item()
        0.5
    """

    status = "paper"
    evidence = "Optimization-AI/ICML2023_LDR, not the authors' code"
    soft_targets = False

    margin: NonNegative = 1.0

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return margin_violations(given.logits, given.target, self.margin).amax(dim=-1)


def margin_violations(
    logits: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"], margin: float
) -> Float[Tensor, "*rows classes"]:
    """``max(0, z_k - z_y + c)`` of every class; 0 for the target and for classes that are masked."""
    excess = raised_rivals(logits, target, margin) - pick(logits, target).unsqueeze(-1)
    return torch.relu(excess.masked_fill(torch.isneginf(logits), 0.0))


def raised_rivals(
    logits: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"], margin: float
) -> Float[Tensor, "*rows classes"]:
    """The logits, those of other classes than the target with the margin on top."""
    index = target.unsqueeze(-1)
    return (logits + margin).scatter(-1, index, logits.gather(-1, index))
