"""RankMixup's M-NDCG: confidences of mixtures rank like their labels' purity."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.confidence.mixtures import mixture_rows
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import reduce


class RankMixupMNDCG(RowLoss):
    """RankMixup's M-NDCG: the confidences of a sample and its mixtures should rank like the purity of their labels.

    ``1 - min(DCG / IDCG, IDCG / DCG)`` with ``DCG = sum_j confidence_j / log2(j + 1)`` over the sample and its Q
    mixtures in the order of falling purity (the largest entry of the mixed label; 1 for the sample itself), and IDCG
    the same sum of the purities. Add it to the samples' cross-entropy with a weight of 0.1. The mixtures of an ignored
    sample are ignored too.

    Shapes:
        logits: [..., C]; target: [...] class indices; mixup_logits, mixup_target: Q blocks of the batch,
        [Q B, C], block q holding the q-th mixture of every sample.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a number of mixtures that is no
            multiple of the batch.

    Source:
        Noh, Park, Lee, Ham, 2023, "RankMixup: Ranking-Based Mixup Training for Network Calibration", arXiv:2308.11990;
        as in their code, with gradient through every confidence.

    Example:
        >>> logits = torch.tensor([[50.0, 0.0]])
        >>> mixup_logits, mixup_target = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> round(RankMixupMNDCG()(logits, torch.tensor([0]), mixup_logits, mixup_target).item(), 4)
        0.0
    """

    status = "confirmed"
    evidence = "cvlab-yonsei/RankMixup"

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
        mixup_logits: Float[Tensor, "*mixtures classes"],
        mixup_target: Float[Tensor, "*mixtures classes"],
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        given = mixture_rows(self._identifier, logits, target, mixup_logits, mixup_target, self.ignore_index)
        confidence = log_probabilities(given.logits).max(dim=-1, keepdim=True).values.exp()
        mixed = log_probabilities(given.mixtures).max(dim=-1).values.exp().movedim(0, -1)
        relevance = given.purity.max(dim=-1).values.movedim(0, -1)
        relevance, order = relevance.sort(dim=-1, descending=True, stable=True)
        confidence = torch.cat([confidence, mixed.gather(-1, order)], dim=-1)
        relevance = torch.cat([torch.ones_like(relevance[..., :1]), relevance], dim=-1)
        discount = torch.arange(2, relevance.shape[-1] + 2, device=logits.device).to(confidence).log2()
        gain, ideal = (confidence / discount).sum(dim=-1), (relevance / discount).sum(dim=-1)
        return reduce(1 - torch.minimum(gain / ideal, ideal / gain), self.reduction, given.kept)
