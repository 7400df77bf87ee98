"""NCE + RCE: an active and a passive loss, both robust to symmetric noise."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.losses.noisy_labels.nce import normalized_cross_entropy
from lightning_losses.losses.noisy_labels.rce import LOG_OF_ZERO, LogOfZero, reverse_cross_entropy
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Weight


class NCEAndRCE(ClassificationLoss):
    """NCE + RCE: an active and a passive loss, both robust to symmetric noise.

    ``α log p_y / sum_k log p_k - β A (1 - p_y)``. `NCE` raises the probability of the target, `RCE` also lowers that of
    the other classes; each alone learns too little; together they fit the data, and are as robust as either.

    Args:
        alpha: α, weight of `NCE`, at least 0.
        beta: β, weight of `RCE`, at least 0.
        log_of_zero: A, below 0, as of `RCE`.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a setting outside of its range.

    Source:
        Ma, Huang, Wang, Romano, Erfani, Bailey, 2020, "Normalized Loss Functions for Deep Learning with Noisy Labels",
        arXiv:2006.13554, with α = β = 1 for CIFAR-10, α = 10, β = 0.1 for CIFAR-100.

    Example:
        >>> import torch
        >>> NCEAndRCE(log_of_zero=-4.0)(torch.zeros(1, 4), torch.tensor([0])).item()
        3.25
    """

    status = "confirmed"
    evidence = "HanxunH/Active-Passive-Losses; also Optimization-AI/ICML2023_LDR, not the authors' code"
    soft_targets = False

    alpha: Weight = 1.0
    beta: Weight = 1.0
    log_of_zero: LogOfZero = LOG_OF_ZERO

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_p = log_probabilities(given.logits)
        passive = reverse_cross_entropy(-pick(log_p, given.target), self.log_of_zero)
        return self.alpha * normalized_cross_entropy(log_p, given.target) + self.beta * passive
