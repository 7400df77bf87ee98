"""Difference between confidence and accuracy (DCA) of a batch."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import PredictionLoss, Predictions


class DCA(PredictionLoss):
    """Difference between confidence and accuracy: how far a batch's mean confidence is from its accuracy.

    ``|mean_n confidence_n - mean_n 1[prediction_n = target_n]|``, to be added to cross-entropy. Batch-coupled. The
    accuracy has no gradient.

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

    status = "paper"
    evidence = "mdca-loss/MDCA-Calibration, not the authors' code"

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        return ((given.confidence - given.correct) * given.kept).sum().abs() / given.number
