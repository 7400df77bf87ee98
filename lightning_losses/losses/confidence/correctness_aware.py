"""Correctness-aware calibration: full confidence where the prediction is right, none where it is wrong."""

from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import predictions


def correctness_aware_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    balanced: bool = False,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Correctness-aware calibration objective; see `CorrectnessAware`."""
    rows = predictions("correctness_aware", logits, target, ignore_index)
    error = (rows.confidence - rows.correct).square()
    plain = (error * rows.kept).sum() / rows.number
    if not balanced:
        return plain
    accuracy = (rows.correct * rows.kept).sum() / rows.number
    weight = torch.where(rows.correct > 0, 1 - accuracy, accuracy) * rows.kept
    mass = weight.sum()
    return torch.where(mass > 0, (weight * error).sum() / torch.where(mass > 0, mass, 1.0), plain)


class CorrectnessAware(Loss):
    """Correctness-aware calibration: full confidence where the prediction is right, none where it is wrong.

    ``mean_n (confidence_n - 1[prediction_n = target_n])²``; correctness gets no gradient. Unlike cross-entropy it
    lowers the confidence of every wrong prediction, also of a narrow one. It trains post-hoc calibrators, which keep
    the prediction; with a network, add it to cross-entropy.

    Args:
        balanced: weigh correct and wrong predictions alike, by ``1 - accuracy`` and ``accuracy`` of the batch; plain
            where all are correct or all wrong. Batch-coupled because of this.
        ignore_index: samples with this target count for nothing.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities.

    Source:
        Liu et al., 2024, "Optimizing Calibration by Gaining Aware of Prediction Correctness", arXiv:2404.13016; the
        balanced form is that of their code.

    Example:
        >>> CorrectnessAware()(torch.zeros(2, 2), torch.tensor([0, 1])).item()
        0.25
    """

    batch_coupled: ClassVar[bool] = True
    status = "paper"
    evidence = "an independent evaluation of the formula"

    def __init__(self, balanced: bool = False, ignore_index: int = -100) -> None:
        super().__init__()
        self.balanced = balanced
        self.ignore_index = ignore_index

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return correctness_aware_loss(logits, target, balanced=self.balanced, ignore_index=self.ignore_index)
