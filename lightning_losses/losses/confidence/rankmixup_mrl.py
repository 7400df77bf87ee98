"""RankMixup's mixup-based ranking loss (MRL): a mixture is less certain than the sample, by a margin."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.mixtures import mixture_rows
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.numerics.reduction import Reduction, check_reduction

Compared = Literal["logits", "probabilities"]


def rankmixup_mrl_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    mixup_logits: Float[Tensor, "*mixtures classes"],
    mixup_target: Float[Tensor, "*mixtures classes"],
    *,
    margin: float = 2.0,
    compare: Compared = "logits",
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """RankMixup's mixup-based ranking loss; see `RankMixupMRL`."""
    check_reduction("rankmixup_mrl", reduction)
    check_number("rankmixup_mrl", "margin", margin)
    check_choice("rankmixup_mrl", "compare", compare, Compared)
    rows, mixtures, purity = mixture_rows("rankmixup_mrl", logits, target, mixup_logits, mixup_target, ignore_index)
    own, mixed = rows.logits.max(dim=-1).values, mixtures.max(dim=-1).values
    if compare == "probabilities":
        own = rows.log_p.max(dim=-1).values.exp()
        mixed = torch.log_softmax(mixtures, dim=-1).max(dim=-1).values.exp()
    # A mixture of one class only is as pure as the sample.
    blended = purity.max(dim=-1).values < 1
    return rows.reduced((torch.relu(mixed - own + margin) * blended).mean(dim=0), reduction)


class RankMixupMRL(Loss):
    """RankMixup's mixup-based ranking loss: a mixture is less certain than the sample it was made of, by a margin.

    ``max(0, max_c mixup_logits_c - max_c logits_c + m)``, averaged over the mixtures; 0 for a mixture whose label is
    of one class. To be added to cross-entropy of the samples with a weight of 0.1.

    Args:
        margin: m; 2 or 1 for logits as in the authors' code, a small number for probabilities.
        compare: "logits", as the authors' code, or "probabilities", as the paper writes it.
        ignore_index: samples with this target count for nothing, nor do their mixtures.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices; mixup_logits, mixup_target: Q blocks of the batch,
        [Q B, C], block q holding the q-th mixture of every sample.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; mixtures that are no whole number of
            batches.

    Source:
        Noh, Park, Lee, Ham, 2023, "RankMixup: Ranking-Based Mixup Training for Network Calibration", arXiv:2308.11990.
        In their code the mask of single-class mixtures is broadcast over the batch, which multiplies two means; here
        it belongs to its own sample.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0]])
        >>> mixup_logits, mixup_target = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> RankMixupMRL()(logits, torch.tensor([0]), mixup_logits, mixup_target).item()
        1.0
    """

    status = "confirmed"
    evidence = "cvlab-yonsei/RankMixup, as its product of means; per sample an independent evaluation of the formula"

    def __init__(
        self, margin: float = 2.0, compare: Compared = "logits", ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check_reduction("rankmixup_mrl", reduction)
        check_number("rankmixup_mrl", "margin", margin)
        check_choice("rankmixup_mrl", "compare", compare, Compared)
        self.margin = margin
        self.compare: Compared = compare
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
        mixup_logits: Float[Tensor, "*mixtures classes"],
        mixup_target: Float[Tensor, "*mixtures classes"],
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return rankmixup_mrl_loss(
            logits,
            target,
            mixup_logits,
            mixup_target,
            margin=self.margin,
            compare=self.compare,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
