"""MadaCos: the scale and the margin of cosines follow the batch's median."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.cosines import warn_of_no_cosines
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.probabilities import log_probabilities, log_total
from lightning_losses.numerics.rows import pick, without_class
from lightning_losses.numerics.settings import Bound

# The authors' least scale, and the probability, 1 less the inverse of this plus 1, of a target whose cosine is 1.
_LEAST_SCALE, _ODDS = 32.0, 9_999_999


class MadaCos(ClassificationLoss):
    """MadaCos: the scale and the margin of cosines follow the batch's median.

    ``-log softmax(s (z - m e_y))_y`` with s and m such that the target of the sample with the median cosine, ẑ, has
    probability α, and one with a cosine of 1 beside the same others has 1 - 1e-7:
    ``s = log(9999999 (1 - α) / α) / (1 - ẑ)``, at least 32, and ``m = ẑ - log(B α / (1 - α)) / s``, at least 0, where
    ``B = sum_{k≠y} exp(s z_k)`` of the median sample. Neither has a gradient; in evaluation m is 0. The median is the
    lower one. The logits z are to be cosines, as a `MarginHead` gives them; others are warned of once, on a CPU.

    Args:
        alpha: α, above 0 and below 1; the authors train with 0.02.
        max_scale: the most that s may be, at least 32: it grows without bounds as ẑ nears 1. The authors have none.

    Shapes:
        logits: [..., C] cosines; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Warns:
        UserWarning: logits that are no cosines.

    Source:
        Zhu et al., 2023, "Coarse-to-Fine: Learning Compact Discriminative Representation for Single-Stage Image
        Retrieval", arXiv:2308.04008, and its code, bassyess/CFCD.

    Example:
        >>> loss = MadaCos(alpha=0.1, reduction="none")
        >>> cosines = torch.tensor([[0.9, -0.5], [0.2, 0.7], [0.0, 0.8]])
        >>> [round(value, 2) for value in (-loss(cosines, torch.tensor([0, 1, 1]))).exp().tolist()]
        [1.0, 0.0, 0.1]
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "bassyess/CFCD"
    soft_targets = False
    takes_cosines = True

    alpha: Annotated[float, Bound(above=0, below=1)] = 0.1
    max_scale: Annotated[float, Bound(least=_LEAST_SCALE)] = 1000.0

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        warn_of_no_cosines(self, given.logits)
        own = pick(given.logits, given.target)
        if own.numel() == 0:
            return own
        scale, margin = self.scale_and_margin(given)
        moved = given.logits.scatter(-1, given.target.unsqueeze(-1), (own - margin).unsqueeze(-1))
        return -pick(log_probabilities(scale * moved), given.target)

    @torch.no_grad()
    def scale_and_margin(self, given: ClassificationRows) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """s and m of a batch."""
        logits, target = given.logits.flatten(0, -2), given.target.flatten()
        own = pick(logits, target)
        kept = torch.ones_like(target) if given.kept is None else given.kept.flatten().to(target)
        # Ignored rows come last.
        order = own.masked_fill(kept == 0, torch.inf).argsort(stable=True)
        median = order.gather(0, ((kept.sum() - 1) // 2).clamp(min=0).unsqueeze(0))
        cosine = own.gather(0, median).squeeze(0)
        odds = (1 - self.alpha) / self.alpha
        rest = (1 - cosine).clamp(min=torch.finfo(cosine.dtype).tiny)
        scale = (math.log(_ODDS * odds) / rest).clamp(_LEAST_SCALE, self.max_scale)
        others = without_class(logits.index_select(0, median), target.index_select(0, median))
        log_b = log_total(scale * others).squeeze()
        margin = (cosine - (log_b - math.log(odds)) / scale).clamp(min=0.0)
        return scale, margin if self.training else torch.zeros_like(margin)
