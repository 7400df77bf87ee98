"""Weighted maximum mean calibration error: correct and wrong predictions count alike."""

from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import predictions, root
from lightning_losses.losses.confidence.mmce import laplacian_form
from lightning_losses.numerics.checks import check_number


def mmce_weighted_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    bandwidth: float = 0.4,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Weighted maximum mean calibration error; see `MMCEWeighted`."""
    check_number("mmce_weighted", "bandwidth", bandwidth, above=0)
    rows = predictions("mmce_weighted", logits, target, ignore_index)
    correct, wrong = rows.correct * rows.kept, (1 - rows.correct) * rows.kept
    both = (correct.sum() > 0) & (wrong.sum() > 0)
    weights = (1 - rows.confidence) * correct / correct.sum().clamp(min=1)
    weights = weights - rows.confidence * wrong / wrong.sum().clamp(min=1)
    value = root(laplacian_form(weights, rows.confidence, bandwidth))
    return torch.where(both, value, 0.0 * value)


class MMCEWeighted(Loss):
    """Weighted maximum mean calibration error: correct and wrong predictions count alike, however many there are.

    ``sqrt(sum_ij v_i v_j exp(-|c_i - c_j| / 0.4))`` with confidences c, ``v = (1 - c) / m`` for the m correct
    predictions and ``v = -c / n`` for the n wrong ones, to be added to cross-entropy. 0 where there are no correct or
    no wrong ones. Batch-coupled, N² operations.

    Args:
        bandwidth: of the kernel, above 0.
        ignore_index: samples with this target count for nothing.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a bandwidth of 0 or less.

    Source:
        Kumar, Sarawagi, Jain, 2018, "Trainable Calibration Measures for Neural Networks from Kernel Mean Embeddings",
        ICML. A code in wide use divides by m², n² and m n twice; this is the paper's formula. Where such codes add
        1e-10 under the root, this has gradient 0 at 0.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> round(MMCEWeighted()(logits, torch.tensor([0, 1])).item(), 4)
        0.4621
    """

    batch_coupled: ClassVar[bool] = True
    status = "paper"
    evidence = "torrvision/focal_calibration, which is not its authors'"

    def __init__(self, bandwidth: float = 0.4, ignore_index: int = -100) -> None:
        super().__init__()
        check_number("mmce_weighted", "bandwidth", bandwidth, above=0)
        self.bandwidth = bandwidth
        self.ignore_index = ignore_index

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return mmce_weighted_loss(logits, target, bandwidth=self.bandwidth, ignore_index=self.ignore_index)
