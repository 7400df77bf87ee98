"""Difference between confidence and accuracy (DCA) of a batch."""

from typing import ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import predictions


def dca_loss(
    logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."], *, ignore_index: int = -100
) -> Float[Tensor, ""]:
    """Difference between confidence and accuracy; see `DCA`."""
    rows = predictions("dca", logits, target, ignore_index)
    return ((rows.confidence - rows.correct) * rows.kept).sum().abs() / rows.number


class DCA(Loss):
    """Difference between confidence and accuracy: how far a batch's mean confidence is from its accuracy.

    ``|mean_n confidence_n - mean_n 1[prediction_n = target_n]|``, to be added to cross-entropy. Batch-coupled. The
    accuracy gets no gradient.

    Args:
        ignore_index: samples with this target count for nothing.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities.

    Source:
        Liang et al., 2020, "Improved Trainable Calibration Method for Neural Networks on Medical Imaging
        Classification", arXiv:2009.04057.

    Example:
        >>> import torch
        >>> DCA()(torch.zeros(2, 2), torch.tensor([0, 0])).item()
        0.5
    """

    batch_coupled: ClassVar[bool] = True
    status = "paper"
    evidence = "mdca-loss/MDCA-Calibration, which is not its authors'"

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return dca_loss(logits, target, ignore_index=self.ignore_index)
