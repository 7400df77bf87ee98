"""RankMixup's mixup-based ranking loss (MRL): a mixture is less certain than the sample, by a margin."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.confidence.mixtures import mixture_rows
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce

Compared = Literal["logits", "probabilities"]


class RankMixupMRL(RowLoss):
    """RankMixup's mixup-based ranking loss: a mixture is less certain than the sample it was made of, by a margin.

    ``max(0, max_c mixup_logits_c - max_c logits_c + m)``, averaged over the mixtures; 0 for a mixture of one class
    only. Add it to the samples' cross-entropy with a weight of 0.1. The mixtures of an ignored sample are ignored too.

    Args:
        margin: m; 2 or 1 for logits, as in the authors' code; a small number for probabilities.
        compare: "logits", as in the authors' code, or "probabilities", as in the paper.

    Shapes:
        logits: [..., C]; target: [...] class indices; mixup_logits, mixup_target: Q blocks of the batch,
        [Q B, C], block q holding the q-th mixture of every sample.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a number of mixtures that is no
            multiple of the batch.

    Source:
        Noh, Park, Lee, Ham, 2023, "RankMixup: Ranking-Based Mixup Training for Network Calibration", arXiv:2308.11990.
        Their code broadcasts the mask of single-class mixtures over the batch, which multiplies two means; here each
        sample has its own mask.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0]])
        >>> mixup_logits, mixup_target = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> RankMixupMRL()(logits, torch.tensor([0]), mixup_logits, mixup_target).item()
        1.0
    """

    status = "confirmed"
    evidence = "cvlab-yonsei/RankMixup, as its product of means; per sample an independent evaluation of the formula"

    margin: float = 2.0
    compare: Compared = "logits"

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
        mixup_logits: Float[Tensor, "*mixtures classes"],
        mixup_target: Float[Tensor, "*mixtures classes"],
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        given = mixture_rows(self._identifier, logits, target, mixup_logits, mixup_target, self.ignore_index)
        own, mixed = given.logits.max(dim=-1).values, given.mixtures.max(dim=-1).values
        if self.compare == "probabilities":
            own = log_probabilities(given.logits).max(dim=-1).values.exp()
            mixed = log_probabilities(given.mixtures).max(dim=-1).values.exp()
        # A mixture of one class is as pure as the sample; a NaN label gives NaN.
        purity = given.purity.detach().max(dim=-1).values
        blended = torch.where(purity < 1, 1.0, 0.0 * purity)
        gap = mixed - own
        # ReLU would turn a gap of -inf, from an infinite logit, into a silent 0.
        value = ((torch.relu(gap + self.margin) + 0.0 * gap.detach()) * blended).mean(dim=0)
        return reduce(value, self.reduction, given.kept)
