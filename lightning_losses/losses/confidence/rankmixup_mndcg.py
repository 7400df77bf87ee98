"""RankMixup's M-NDCG: confidences of mixtures rank like their labels' purity."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.mixtures import mixture_rows
from lightning_losses.numerics.reduction import Reduction, check_reduction


def rankmixup_mndcg_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    mixup_logits: Float[Tensor, "*mixtures classes"],
    mixup_target: Float[Tensor, "*mixtures classes"],
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """RankMixup's M-NDCG; see `RankMixupMNDCG`."""
    check_reduction("rankmixup_mndcg", reduction)
    rows, mixtures, purity = mixture_rows("rankmixup_mndcg", logits, target, mixup_logits, mixup_target, ignore_index)
    confidence = rows.log_p.max(dim=-1, keepdim=True).values.exp()
    mixed = torch.log_softmax(mixtures, dim=-1).max(dim=-1).values.exp().T
    relevance = purity.max(dim=-1).values.T
    relevance, order = relevance.sort(dim=-1, descending=True, stable=True)
    confidence = torch.cat([confidence, mixed.gather(-1, order)], dim=-1)
    relevance = torch.cat([torch.ones_like(relevance[:, :1]), relevance], dim=-1)
    discount = torch.arange(2, relevance.shape[-1] + 2, device=logits.device).to(confidence).log2()
    gain, ideal = (confidence / discount).sum(dim=-1), (relevance / discount).sum(dim=-1)
    return rows.reduced(1 - torch.minimum(gain / ideal, ideal / gain), reduction)


class RankMixupMNDCG(Loss):
    """RankMixup's M-NDCG: the confidences of a sample and of its mixtures rank like the purity of their labels.

    ``1 - min(DCG / IDCG, IDCG / DCG)`` with ``DCG = sum_j confidence_j / log2(j + 1)`` over the sample and its Q
    mixtures in the order of falling purity (the largest entry of the mixed label; 1 for the sample itself), and IDCG
    the same sum of the purities. To be added to cross-entropy of the samples with a weight of 0.1.

    Args:
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
        Noh, Park, Lee, Ham, 2023, "RankMixup: Ranking-Based Mixup Training for Network Calibration", arXiv:2308.11990;
        as their code, with gradient through every confidence.

    Example:
        >>> logits = torch.tensor([[50.0, 0.0]])
        >>> mixup_logits, mixup_target = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> round(RankMixupMNDCG()(logits, torch.tensor([0]), mixup_logits, mixup_target).item(), 4)
        0.0
    """

    status = "confirmed"
    evidence = "cvlab-yonsei/RankMixup"

    def __init__(self, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction("rankmixup_mndcg", reduction)
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
        return rankmixup_mndcg_loss(
            logits, target, mixup_logits, mixup_target, ignore_index=self.ignore_index, reduction=self.reduction
        )
