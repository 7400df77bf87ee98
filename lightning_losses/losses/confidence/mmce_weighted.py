"""Weighted maximum mean calibration error: correct and wrong predictions count alike."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.confidence.mmce import laplacian_form, root
from lightning_losses.losses.kinds import PredictionLoss, Predictions
from lightning_losses.numerics.settings import Positive


class MMCEWeighted(PredictionLoss):
    """Weighted maximum mean calibration error: correct and wrong predictions count alike, however many there are.

    ``sqrt(sum_ij v_i v_j exp(-|c_i - c_j| / 0.4))`` with confidences c, ``v = (1 - c) / m`` for the m correct
    predictions and ``v = -c / n`` for the n wrong ones, to be added to cross-entropy. It is 0 if all predictions are
    correct or all wrong. Batch-coupled, N² operations.

    Args:
        bandwidth: the kernel's width, above 0.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a bandwidth of 0 or less.

    Source:
        Kumar, Sarawagi, Jain, 2018, "Trainable Calibration Measures for Neural Networks from Kernel Mean Embeddings",
        ICML. A widely used code divides by m², n² and m n twice; this is the paper's formula. Such code adds 1e-10
        under the root; here the gradient is 0 at 0.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> round(MMCEWeighted()(logits, torch.tensor([0, 1])).item(), 4)
        0.4621
    """

    status = "paper"
    evidence = "torrvision/focal_calibration, not the authors' code"

    bandwidth: Positive = 0.4

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        correct, wrong = given.correct * given.kept, (1 - given.correct) * given.kept
        both = (correct.sum() > 0) & (wrong.sum() > 0)
        weights = (1 - given.confidence) * correct / correct.sum().clamp(min=1)
        weights = weights - given.confidence * wrong / wrong.sum().clamp(min=1)
        value = root(laplacian_form(weights, given.confidence, self.bandwidth))
        return torch.where(both, value, 0.0 * value)
