"""MART: a boosted cross-entropy of attacked inputs, and a divergence that counts most where clean inputs are wrong."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.robustness.attacked_rows import AttackedLoss, AttackedRows
from lightning_losses.numerics.divergences import weighted_log_ratio
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import pick, without_class
from lightning_losses.numerics.settings import Weight

# The authors' numbers: they keep logarithms finite, and a weight above 0 for inputs that are classified for certain.
_ABOVE_ONE, _LEAST, _WEIGHT_AT_ZERO = 1.0001, 1e-12, 1.0000001


class MART(AttackedLoss):
    """MART: a boosted cross-entropy of attacked inputs, and a divergence that counts most where clean inputs are wrong.

    ``-log p'_y - log(1 - max_{k≠y} p'_k) + β (1 - p_y) KL(p || p')`` with p the softmax of the clean inputs and p' that
    of the attacked ones. The weight 1 - p_y gets a gradient too. The logarithms are those of
    ``1.0001 - p'_k`` and, in the divergence, of ``p' + 10^-12``, as the authors have them: every value is finite. Its
    attack makes cross-entropy large.

    Args:
        beta: β, at least 0; the authors' code has 6, the paper's experiments 5.

    Shapes:
        logits: [..., C]; attacked_logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a β below 0.

    Source:
        Wang, Zou, Yi, Bailey, Ma, Gu, 2020, "Improving Adversarial Robustness Requires Revisiting Misclassified
        Examples", ICLR 2020, and their code, YisenWang/MART.

    Example:
        >>> loss, clean = MART(beta=6.0), torch.tensor([[2.0, 0.0]])
        >>> [round(loss(clean, attacked, torch.tensor([0])).item(), 4) for attacked in (clean, -clean)]
        [0.2537, 5.3424]
    """

    status = "confirmed"
    evidence = "YisenWang/MART"

    beta: Weight = 6.0

    def rows(self, given: AttackedRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_p, log_q = log_probabilities(given.logits), log_probabilities(given.attacked_logits)
        p, q = log_p.exp(), log_q.exp()
        strongest_other = without_class(log_q, given.target).amax(dim=-1).exp()
        margin = -torch.log(_ABOVE_ONE - strongest_other + _LEAST)
        divergence = weighted_log_ratio(p, log_p, torch.log(q + _LEAST))
        return margin - pick(log_q, given.target) + self.beta * (_WEIGHT_AT_ZERO - pick(p, given.target)) * divergence
