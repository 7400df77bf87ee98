"""Soft top-k: a sample's labels shall be among its k largest scores, in whatever order."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import MultiLabelLoss
from lightning_losses.numerics.rows import LabelRows
from lightning_losses.numerics.settings import Count, Positive
from lightning_losses.numerics.soft_topk import log_soft_topk


class SoftTopKLoss(MultiLabelLoss):
    """Soft top-k: a sample's labels shall be among its k largest scores, in whatever order.

    A sample costs ``-1/|P| sum_{j in P} y_j log σ(α (z_j + t))`` with P its labels, ``y_j > 0``, and t the threshold at
    which ``sum_j σ(α (z_j + t)) = k``: each label's soft membership of the top k. So it aims at precision or recall at
    k, and does not care for what is above the threshold anyway. A sample without a label costs 0, and so does one that
    has no more than k labels that count.

    Args:
        k: at which k you evaluate; at least 1 and below the number of labels. The authors' code takes 5.
        alpha: α, above 0: the larger, the sharper is the choice.

    Shapes:
        logits: [..., C], C above k; multi_hot: [..., C], where a number below 1 weighs its label.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; labels or options out of range; no more than k labels.

    Source:
        Gupta, Khatri, Rawat, Bhojanapalli, Jain, Dhillon, 2024, "Dual-Encoders for Extreme Multi-Label
        Classification", arXiv:2310.10636; values from its code nilesh2797/DEXML with all labels of a sample, of which
        it draws up to k by default.

    Example:
        >>> logits, multi_hot = torch.tensor([[5.0, 1.0, 0.0, -1.0]]), torch.tensor([[1, 1, 0, 0]])
        >>> losses = [SoftTopKLoss(k)(logits, multi_hot) for k in (1, 2, 3)]
        >>> [round(loss.item(), 4) for loss in losses]
        [2.0551, 0.1719, 0.0219]
    """

    status = "confirmed"
    evidence = "nilesh2797/DEXML"

    k: Count
    alpha: Positive = 2.0

    def labels(self, given: LabelRows) -> Float[Tensor, "*rows classes"]:
        """The value of each label."""
        classes = given.logits.shape[-1]
        if classes <= self.k:
            raise ValueError(
                f"{self._identifier}: k={self.k} came with {classes} labels; give a k below the number of labels."
            )
        has = (given.multi_hot > 0).sum(dim=-1, keepdim=True).clamp(min=1)
        if given.counted is None:
            return -given.multi_hot * log_soft_topk(given.logits, self.k, self.alpha) / has
        log_chosen = log_soft_topk(given.logits.masked_fill(~given.counted, -torch.inf), self.k, self.alpha)
        return -given.multi_hot * log_chosen.masked_fill(~given.counted, 0.0) / has
