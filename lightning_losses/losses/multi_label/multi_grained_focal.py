"""Multi-grained focal loss: asymmetric loss in which rare labels have larger weights and exponents."""

from dataclasses import field
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.class_prior import ClassCounts, ClassPrior
from lightning_losses.losses.kinds import MultiLabelLoss
from lightning_losses.losses.multi_label.asymmetric import Clip, asymmetric, clipped_log
from lightning_losses.numerics.rows import LabelRows
from lightning_losses.numerics.settings import Bound, NonNegative


class MultiGrainedFocal(MultiLabelLoss):
    """Multi-grained focal loss: asymmetric loss in which rare labels have larger weights and exponents.

    With ``w_c = (1 - log(n_c / max_k n_k))^power``, which is 1 for the most frequent label, it is ``w_c`` times the
    asymmetric loss with the exponent ``γ₋ + w_c`` in place of γ₋.

    Args:
        class_counts: [C] how many training samples have each label, 0 counts as 1; None where `ClassCounts` counts
            them.
        gamma_pos: γ₊, at least 0.
        gamma_neg: γ₋, at least 0.
        clip: by how much the probability of a label that is lacking is lowered, in [0, 1).
        power: of the weights, above 0.
        detach_focal: take the focusing weight as a constant, as the authors do.

    Shapes:
        logits: [..., C]; multi_hot: [..., C].

    Returns:
        A scalar, or [...] without reduction. A mean is over samples, of the sums over labels.

    Raises:
        ValueError: shapes or dtypes that do not fit; counts of another number of labels; labels or options out of
            range.

    Source:
        Zhang et al., 2023, "Learning in Imperfect Environment: Multi-Label Classification with Long-Tailed Distribution
        and Partial Labels", arXiv:2304.10539, and their code, wannature/COMIC, which sums over the batch
        (`reduction="sum"`).

    Example:
        >>> import math
        >>> loss = MultiGrainedFocal([100, 10], gamma_neg=0.0, clip=0.0)
        >>> round(loss(torch.zeros(1, 2), torch.ones(1, 2)).item() / math.log(2), 4)  # the weights 1 and 1.2203
        2.2203
    """

    status = "confirmed"
    evidence = "wannature/COMIC"

    class_counts: ClassCounts | None = None
    gamma_pos: NonNegative = 0.0
    gamma_neg: NonNegative = 4.0
    clip: Clip = 0.05
    power: Annotated[float, Bound(above=0)] = 1 / 6
    detach_focal: bool = True
    prior: ClassPrior = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prior = ClassPrior(self._identifier, self.class_counts)

    def labels(self, given: LabelRows) -> Float[Tensor, "*rows classes"]:
        """The value of each label."""
        weight = rarity(self.prior.smoothed(given.logits.shape[-1]), self.power).to(given.logits.dtype)
        log_p, log_q = F.logsigmoid(given.logits), clipped_log(given.logits, self.clip)
        gammas = self.gamma_pos, self.gamma_neg + weight
        return weight * asymmetric(log_p, log_q, given.multi_hot, gammas=gammas, detach_focal=self.detach_focal)


def rarity(counts: Float[Tensor, " classes"], power: float) -> Float[Tensor, " classes"]:
    """``(1 - log(n_c / max n))^power``: 1 for the most frequent label, and more for rarer ones.

    Example:
        >>> rarity(torch.tensor([8.0, 8.0]), 0.5)
        tensor([1., 1.])
    """
    return (1 - torch.log(counts / counts.max())).pow(power)
