"""Pseudo-labels of whichever is surer, the network or its teacher, and agreement where both find the same."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Share, Weight


class SelectivePseudoLabel(DistillationLoss):
    """Cross-entropy with the class that the surer of network and teacher finds, and KL where both find the same.

    ``1[max(p_ŷ, q_ŷ') >= τ] · -log q_y + λ 1[ŷ = ŷ'] KL(p || q)`` with q the softmax of the network and p that of the
    teacher, ŷ' and ŷ their likeliest classes, and y that of the two which is more probable, the teacher's where both
    are equally so. So a network that knows its own data better than a shared one does is not led astray by it, and the
    other way round. Rows that neither is sure of count as 0 in the mean.

    Args:
        threshold: τ, the least probability of a pseudo-label, in [0, 1]; 0 labels every row.
        consistency: λ, the weight of the divergence, at least 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a setting outside of its range.

    Source:
        Cho, Joshi, Dimitriadis, 2023, "Local or Global: Selective Knowledge Assimilation for Federated Learning with
        Limited Labels", arXiv:2307.08809: the network is a client's, the teacher what all clients share. Rebuilt from
        the description: which is surer is decided here by the largest probability, sample by sample; no code of the
        authors was found.

    Example:
        >>> import torch
        >>> logits, teacher_logits = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 9.0]])
        >>> round(SelectivePseudoLabel()(logits, teacher_logits).item(), 4)
        2.1269
    """

    status = "experimental"
    evidence = "no golden values: no code of the authors was found"

    threshold: Share = 0.95
    consistency: Weight = 1.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_q, log_p = log_probabilities(given.logits), log_probabilities(given.teacher_logits)
        (own_best, own), (teacher_best, teacher) = log_q.detach().max(dim=-1), log_p.max(dim=-1)
        label = torch.where(own_best > teacher_best, own, teacher)
        surest = torch.maximum(own_best, teacher_best)
        # Not a product: of a class that the network masks, the logarithm is infinite. NaN is not below.
        labelled = torch.where(surest.exp() < self.threshold, 0.0, -pick(log_q, label))
        agreement = torch.where((own != teacher) & ~surest.isnan(), 0.0, kl_divergence(log_p, log_q))
        return labelled + self.consistency * agreement
