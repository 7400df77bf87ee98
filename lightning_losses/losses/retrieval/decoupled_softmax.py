"""Decoupled softmax: each label that a sample has is compared with the labels that it lacks, never with its others."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import MultiLabelLoss
from lightning_losses.numerics.probabilities import log_total
from lightning_losses.numerics.rows import LabelRows


class DecoupledSoftmax(MultiLabelLoss):
    """Decoupled softmax: each label that a sample has is compared with the labels that it lacks, never with its others.

    A sample costs ``-1/|P| sum_{j in P} y_j log(e^{z_j} / (e^{z_j} + sum_{k not in P} e^{z_k}))`` with P its labels,
    ``y_j > 0``. With one label it is cross-entropy. With several, no label is pushed down for another of the same
    sample, as `MultilabelInfoNCE` does, whose labels share one probability of 1. A sample without a label costs 0.

    Give scores over all labels, or over those in the batch; cosines are divided by a temperature of 0.05 first.

    Shapes:
        logits: [..., C]; multi_hot: [..., C], where a number below 1 weighs its label.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; labels out of range.

    Source:
        Gupta, Khatri, Rawat, Bhojanapalli, Jain, Dhillon, 2024, "Dual-Encoders for Extreme Multi-Label
        Classification", arXiv:2310.10636; values from its code nilesh2797/DEXML with all labels of a sample. By default
        that draws one label of each sample and leaves out the others, and stands a masked score for -100.

    Example:
        >>> logits, multi_hot = torch.tensor([[5.0, 1.0, 0.0]]), torch.tensor([[1, 1, 0]])
        >>> round(DecoupledSoftmax()(logits, multi_hot).item(), 4)  # (log(1 + e^-5) + log(1 + e^-1)) / 2
        0.16
    """

    status = "confirmed"
    evidence = "nilesh2797/DEXML"

    def labels(self, given: LabelRows) -> Float[Tensor, "*rows classes"]:
        """The value of each label."""
        has = given.multi_hot > 0
        others = has if given.counted is None else has | ~given.counted
        lacking = log_total(given.logits.masked_fill(others, -torch.inf))
        return given.multi_hot * F.softplus(lacking - given.logits) / has.sum(dim=-1, keepdim=True).clamp(min=1)
