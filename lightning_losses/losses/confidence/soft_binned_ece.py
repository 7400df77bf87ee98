"""Soft-binned expected calibration error: every sample belongs to all bins a little."""

from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import predictions, root
from lightning_losses.numerics.checks import check_number, check_temperature

_EMPTY = 1e-5


def soft_binned_ece_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    num_bins: int = 15,
    temperature: float = 0.01,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Soft-binned expected calibration error; see `SoftBinnedECE`."""
    check_temperature("soft_binned_ece", temperature)
    check_number("soft_binned_ece", "num_bins", num_bins, least=1)
    rows = predictions("soft_binned_ece", logits, target, ignore_index)
    anchors = (torch.arange(num_bins, device=logits.device, dtype=rows.confidence.dtype) + 0.5) / num_bins
    membership = torch.softmax(-(rows.confidence.unsqueeze(-1) - anchors).square() / temperature, dim=-1)
    membership = membership * rows.kept.unsqueeze(-1)
    size = membership.sum(dim=0)
    gap = (membership * (rows.confidence - rows.correct).unsqueeze(-1)).sum(dim=0) / size.clamp(min=_EMPTY)
    return root((size / rows.number * gap.square()).sum())


class SoftBinnedECE(Loss):
    """Soft-binned expected calibration error: every sample belongs to all bins a little, so that it can be trained.

    ``sqrt(sum_b (S_b / N) (confidence_b - accuracy_b)²)`` with means weighted by the memberships
    ``u_nb = softmax_b(-(confidence_n - (b + 1/2) / B)² / T)`` and ``S_b = sum_n u_nb``, to be added to cross-entropy.
    As T goes to 0 it becomes the equal-width calibration error of norm 2. Batch-coupled.

    Args:
        num_bins: B, at least 1.
        temperature: T, above 0; the softness of the bins.
        ignore_index: samples with this target count for nothing.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a temperature of 0 or less.

    Source:
        Karandikar et al., 2021, "Soft Calibration Objectives for Neural Networks", arXiv:2108.00106, the
        confidence-binned variant with the square norm. The authors set T through the decay d of a bin's membership at
        its neighbour's centre, ``T = 1 / (B² ln d)``.

    Example:
        >>> round(SoftBinnedECE()(torch.zeros(2, 2), torch.tensor([0, 0])).item(), 4)
        0.5
    """

    batch_coupled: ClassVar[bool] = True
    status = "paper"
    evidence = "an independent evaluation of the formula"

    def __init__(self, num_bins: int = 15, temperature: float = 0.01, ignore_index: int = -100) -> None:
        super().__init__()
        check_temperature("soft_binned_ece", temperature)
        check_number("soft_binned_ece", "num_bins", num_bins, least=1)
        self.num_bins = num_bins
        self.temperature = temperature
        self.ignore_index = ignore_index

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return soft_binned_ece_loss(
            logits, target, num_bins=self.num_bins, temperature=self.temperature, ignore_index=self.ignore_index
        )
