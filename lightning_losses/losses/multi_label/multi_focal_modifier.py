"""Multi-focal modifier: multi-grained focal loss that takes into account which labels occur together."""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.class_prior import ClassCounts, ClassPrior
from lightning_losses.losses.kinds import MultiLabelLoss
from lightning_losses.losses.multi_label.asymmetric import Clip, asymmetric, clipped_log
from lightning_losses.losses.multi_label.multi_grained_focal import rarity
from lightning_losses.numerics.rows import LabelRows
from lightning_losses.numerics.settings import Bound, NonNegative

# As the authors bound probabilities.
_LEAST = 1e-8


class MultiFocalModifier(MultiLabelLoss):
    """Multi-focal modifier: multi-grained focal loss that takes into account which labels occur together.

    A sample attends to a label by ``a_c``, the mean over its labels l of ``A_lc``, divided by its sum over c; A is
    `co_occurrence`, each column divided by its sum. In the asymmetric loss, p becomes ``p (1 - a)``, at least 1e-8 of
    p, and q, where a is above 0, ``min(boost q, 1)``. Weights and exponents are those of `MultiGrainedFocal`. A sample
    without labels attends to none.

    Args:
        co_occurrence: [C, C] how many training samples have two labels, the label's own number on the diagonal.
        class_counts: [C] how many training samples have each label, 0 counts as 1; None for the diagonal.
        gamma_pos: γ₊, at least 0.
        gamma_neg: γ₋, at least 0.
        boost: what q is multiplied by for labels that occur together with the sample's, at least 1.
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
        (`reduction="sum"`) and gives NaN for a sample without labels.

    Example:
        >>> loss = MultiFocalModifier([[2, 0], [0, 2]])
        >>> bool(loss(torch.zeros(1, 2), torch.zeros(1, 2)) > 0)
        True
    """

    status = "confirmed"
    evidence = "wannature/COMIC"

    co_occurrence: Sequence[Sequence[float]]
    class_counts: ClassCounts | None = None
    gamma_pos: NonNegative = 0.0
    gamma_neg: NonNegative = 3.0
    boost: Annotated[float, Bound(least=1)] = 1.2
    clip: Clip = 0.05
    power: Annotated[float, Bound(above=0)] = 1 / 3
    detach_focal: bool = True
    prior: ClassPrior = field(init=False)
    attention: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = [list(row) for row in self.co_occurrence]
        square = all(len(row) == len(rows) for row in rows)
        together = torch.tensor(rows if square else [], dtype=torch.float64)
        if not square or not bool(((together >= 0) & together.isfinite()).all()):
            raise ValueError(
                f"{self._identifier}: co_occurrence={self.co_occurrence!r} came; give [C][C] numbers, for each two "
                "labels how many samples have both."
            )
        counts = together.diagonal() if self.class_counts is None else self.class_counts
        self.prior = ClassPrior(self._identifier, counts)
        if len(self.prior.counts) != len(rows):
            raise ValueError(
                f"{self._identifier}: class_counts of {len(self.prior.counts)} labels came with co_occurrence of "
                f"{len(rows)}; give both of the same labels."
            )
        self.register_buffer("attention", together / together.sum(dim=0).clamp(min=1), persistent=False)

    def labels(self, given: LabelRows) -> Float[Tensor, "*rows classes"]:
        """The value of each label."""
        weight = rarity(self.prior.smoothed(given.logits.shape[-1]), self.power).to(given.logits.dtype)
        attended = given.multi_hot @ self.attention.to(weight)
        total = attended.sum(dim=-1, keepdim=True)
        attended = attended / torch.where(total > 0, total, 1.0)
        log_p = F.logsigmoid(given.logits) + (1 - attended).clamp(min=_LEAST).log()
        log_q = clipped_log(given.logits, self.clip)
        boosted = (log_q + math.log(self.boost)).clamp(max=0)
        gammas = self.gamma_pos, self.gamma_neg + weight
        log_q = torch.where(attended > 0, boosted, log_q)
        return weight * asymmetric(log_p, log_q, given.multi_hot, gammas=gammas, detach_focal=self.detach_focal)
