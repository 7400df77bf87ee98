"""InfoNCE of several labels: cross-entropies of a softmax over all labels, added up over those that a sample has."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import MultiLabelLoss
from lightning_losses.numerics.probabilities import log_probabilities_within
from lightning_losses.numerics.rows import LabelRows


class MultilabelInfoNCE(MultiLabelLoss):
    """InfoNCE of several labels: cross-entropies of a softmax over all labels, added up over those that a sample has.

    A sample costs ``-sum_j y_j log softmax(z)_j``: a sum, not a mean, over its labels. As these share one probability
    of 1, a label that is well found is pushed down for the sample's others; `DecoupledSoftmax` doesn't. With one label
    both are cross-entropy. A sample without a label costs 0.

    Give scores over all labels, or over those in the batch; cosines are divided by a temperature of 0.05 first.

    Shapes:
        logits: [..., C]; multi_hot: [..., C], where a number below 1 weighs its label.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; labels out of range.

    Source:
        The baseline of Gupta, Khatri, Rawat, Bhojanapalli, Jain, Dhillon, 2024, "Dual-Encoders for Extreme Multi-Label
        Classification", arXiv:2310.10636; values from its code nilesh2797/DEXML with all labels of a sample.

    Example:
        >>> logits, multi_hot = torch.tensor([[5.0, 1.0, 0.0]]), torch.tensor([[1, 1, 0]])
        >>> round(MultilabelInfoNCE()(logits, multi_hot).item(), 4)
        4.0495
    """

    status = "confirmed"
    evidence = "nilesh2797/DEXML"

    def labels(self, given: LabelRows) -> Float[Tensor, "*rows classes"]:
        """The value of each label."""
        if given.counted is None:
            return -given.multi_hot * log_probabilities_within(given.logits)
        log_p = log_probabilities_within(given.logits.masked_fill(~given.counted, -torch.inf))
        return -given.multi_hot * log_p.masked_fill(~given.counted, 0.0)
