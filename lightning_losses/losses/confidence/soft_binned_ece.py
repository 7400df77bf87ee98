"""Soft-binned expected calibration error: every sample belongs to all bins a little."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.confidence.mmce import root
from lightning_losses.losses.kinds import PredictionLoss, Predictions
from lightning_losses.numerics.settings import Count, Temperature

_EMPTY = 1e-5


class SoftBinnedECE(PredictionLoss):
    """Soft-binned expected calibration error: every sample belongs to all bins a little, which makes it differentiable.

    ``sqrt(sum_b (S_b / N) (confidence_b - accuracy_b)²)`` with means weighted by the memberships
    ``u_nb = softmax_b(-(confidence_n - (b + 1/2) / B)² / T)`` and ``S_b = sum_n u_nb``, to be added to cross-entropy.
    As T goes to 0 it becomes the equal-width calibration error of norm 2. Batch-coupled.

    Args:
        num_bins: B, at least 1.
        temperature: T, above 0; the softness of the bins.

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

    status = "paper"
    evidence = "an independent evaluation of the formula"

    num_bins: Count = 15
    temperature: Temperature = 0.01

    def measure(self, given: Predictions) -> Float[Tensor, ""]:
        """The value of the batch."""
        points, bins = given.confidence, torch.arange(self.num_bins, device=given.log_p.device)
        anchors = (bins.to(points) + 0.5) / self.num_bins
        membership = torch.softmax(-(points.unsqueeze(-1) - anchors).square() / self.temperature, dim=-1)
        membership = membership * given.kept.unsqueeze(-1)
        size = membership.sum(dim=0)
        gap = (membership * (points - given.correct).unsqueeze(-1)).sum(dim=0) / size.clamp(min=_EMPTY)
        return root((size / given.number * gap.square()).sum())
