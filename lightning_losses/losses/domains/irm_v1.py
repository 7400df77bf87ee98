"""IRMv1: a classifier that is the best one in every domain, as far as a factor of its logits can tell."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.domains.domain_penalty import DomainPenalty, DomainRows
from lightning_losses.numerics.divergences import entropy
from lightning_losses.numerics.domains import domain_means, mean_of_present


class IRMv1(DomainPenalty):
    """IRMv1: a classifier that is the best one in every domain, as far as a factor of its logits can tell.

    ``mean_e (∂/∂w R_e(w z))²`` at w = 1: no domain would gain if its logits z were multiplied by another number. The
    derivative is the mean over the domain's samples of ``h = sum_k (p_k - t_k) z_k``, which is cross-entropy less the
    prediction's entropy. "full" squares that mean. "split" multiplies the mean over every second sample of the domain
    by that over the others: an unbiased estimate of the squared expectation, which may be below 0; with a single
    sample of a domain it is "full".

    Let its weight be small until the network has learned something, then large (`Switch`); the authors take up to 1e5.

    Args:
        num_domains: E, at least 1.
        estimator: "split" or "full".

    Shapes:
        logits: [..., C]; target: [...] class indices; domain: [...] int64, from 0 to E - 1.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a domain out of range, on a CPU and
            under `debug`.

    Source:
        Arjovsky, Bottou, Gulrajani, Lopez-Paz, 2019, "Invariant Risk Minimization", arXiv:1907.02893, and its code,
        facebookresearch/InvariantRiskMinimization, which is "full" of one logit, and divides the whole loss by the
        weight where that exceeds 1. "split" is that of DomainBed.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
        >>> loss = IRMv1(num_domains=2, estimator="full")
        >>> round(loss(logits, target, domain=torch.tensor([0, 1])).item(), 4)
        1.58
    """

    status = "confirmed"
    evidence = "facebookresearch/InvariantRiskMinimization, and facebookresearch/DomainBed"

    estimator: Literal["split", "full"] = "split"

    def measure(self, given: DomainRows) -> Float[Tensor, ""]:
        """The value of the batch."""
        slope = given.cross_entropy - entropy(given.log_p)
        member = given.member
        penalty = domain_means(slope, member).square()
        if self.estimator == "split":
            # The first, third, ... row of each domain, and the others.
            first = member * member.cumsum(dim=1).remainder(2)
            second = member - first
            product = domain_means(slope, first) * domain_means(slope, second)
            penalty = torch.where(second.sum(dim=1) > 0, product, penalty)
        return mean_of_present(penalty, given.present)
