"""Maximum mean calibration error (MMCE): a kernel's view of how confidence and correctness differ."""

from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import predictions, root
from lightning_losses.numerics.checks import check_number


def mmce_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    bandwidth: float = 0.4,
    squared: bool = True,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Maximum mean calibration error; see `MMCE`."""
    check_number("mmce", "bandwidth", bandwidth, above=0)
    rows = predictions("mmce", logits, target, ignore_index)
    difference = (rows.correct - rows.confidence) * rows.kept / rows.number
    value = laplacian_form(difference, rows.confidence, bandwidth)
    return value if squared else root(value)


def laplacian_form(
    weights: Float[Tensor, " rows"], points: Float[Tensor, " rows"], bandwidth: float
) -> Float[Tensor, ""]:
    """``sum_ij w_i w_j exp(-|x_i - x_j| / bandwidth)``."""
    kernel = torch.exp(-(points.unsqueeze(0) - points.unsqueeze(1)).abs() / bandwidth)
    return (weights.unsqueeze(0) * kernel * weights.unsqueeze(1)).sum()


class MMCE(Loss):
    """Maximum mean calibration error: a kernel's view of how confidence and correctness differ.

    ``(1 / N²) sum_ij (a_i - c_i) (a_j - c_j) exp(-|c_i - c_j| / 0.4)`` with confidences c and correctness a, to be
    added to cross-entropy. Batch-coupled, N² operations. Confidence has a gradient, in the kernel too; correctness has
    none.

    Args:
        bandwidth: of the kernel, above 0.
        squared: False takes the square root, as the paper writes it.
        ignore_index: samples with this target count for nothing.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a bandwidth of 0 or less.

    Source:
        Kumar, Sarawagi, Jain, 2018, "Trainable Calibration Measures for Neural Networks from Kernel Mean Embeddings",
        ICML. The paper takes the root; the code that most use (Mukhoti et al., 2020) doesn't.

    Example:
        >>> MMCE()(torch.zeros(1, 2), torch.tensor([0])).item()
        0.25
    """

    batch_coupled: ClassVar[bool] = True
    status = "paper"
    evidence = "torrvision/focal_calibration, which is not its authors'"

    def __init__(self, bandwidth: float = 0.4, squared: bool = True, ignore_index: int = -100) -> None:
        super().__init__()
        check_number("mmce", "bandwidth", bandwidth, above=0)
        self.bandwidth = bandwidth
        self.squared = squared
        self.ignore_index = ignore_index

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return mmce_loss(logits, target, bandwidth=self.bandwidth, squared=self.squared, ignore_index=self.ignore_index)
