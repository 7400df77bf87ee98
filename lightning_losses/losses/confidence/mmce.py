"""Maximum mean calibration error (MMCE): a kernel's view of how confidence and correctness differ."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import PredictionLoss, Predictions
from lightning_losses.numerics.settings import Positive


class MMCE(PredictionLoss):
    """Maximum mean calibration error: a kernel distance between confidence and correctness.

    ``(1 / N²) sum_ij (a_i - c_i) (a_j - c_j) exp(-|c_i - c_j| / 0.4)`` with confidences c and correctness a, to be
    added to cross-entropy. Batch-coupled, N² operations. The gradient goes through the confidence, also in the kernel,
    and not through the correctness.

    Args:
        bandwidth: the kernel's width, above 0.
        squared: False takes the square root, as in the paper.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a bandwidth of 0 or less.

    Source:
        Kumar, Sarawagi, Jain, 2018, "Trainable Calibration Measures for Neural Networks from Kernel Mean Embeddings",
        ICML. The paper takes the root; the most used code (Mukhoti et al., 2020) doesn't.

    Example:
        >>> MMCE()(torch.zeros(1, 2), torch.tensor([0])).item()
        0.25
    """

    status = "paper"
    evidence = "torrvision/focal_calibration, not the authors' code"

    bandwidth: Positive = 0.4
    squared: bool = True

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        difference = (given.correct - given.confidence) * given.kept / given.number
        value = laplacian_form(difference, given.confidence, self.bandwidth)
        return value if self.squared else root(value)


def laplacian_form(
    weights: Float[Tensor, " rows"], points: Float[Tensor, " rows"], bandwidth: float
) -> Float[Tensor, ""]:
    """``sum_ij w_i w_j exp(-|x_i - x_j| / bandwidth)``."""
    kernel = torch.exp(-(points.unsqueeze(0) - points.unsqueeze(1)).abs() / bandwidth)
    return (weights.unsqueeze(0) * kernel * weights.unsqueeze(1)).sum()


def root(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The square root, with gradient 0 at 0."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0 * value)
