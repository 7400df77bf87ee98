"""Correctness-aware calibration: full confidence where the prediction is right, none where it is wrong."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import PredictionLoss, Predictions


class CorrectnessAware(PredictionLoss):
    """Correctness-aware calibration: full confidence where the prediction is right, none where it is wrong.

    ``mean_n (confidence_n - 1[prediction_n = target_n])²``; correctness gets no gradient. Unlike cross-entropy it
    lowers the confidence of every wrong prediction, even a narrowly wrong one. It is made for post-hoc calibrators,
    which keep the prediction; to train a network, add it to cross-entropy.

    Args:
        balanced: weigh correct and wrong predictions alike, by ``1 - accuracy`` and ``accuracy`` of the batch;
            unweighted if all are correct or all wrong. Batch-coupled because of this.

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

    status = "paper"
    evidence = "an independent evaluation of the formula"

    balanced: bool = False

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        error = (given.confidence - given.correct).square()
        plain = (error * given.kept).sum() / given.number
        if not self.balanced:
            return plain
        accuracy = (given.correct * given.kept).sum() / given.number
        weight = torch.where(given.correct > 0, 1 - accuracy, accuracy) * given.kept
        mass = weight.sum()
        return torch.where(mass > 0, (weight * error).sum() / torch.where(mass > 0, mass, 1.0), plain)
