"""Symmetric cross-entropy with a teacher's predictions."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import expectation
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Share


class RMTSymmetricCrossEntropy(DistillationLoss):
    """Symmetric cross-entropy with a teacher's predictions, by which a robust mean teacher learns from itself.

    ``-(1 - α) sum_c p_c log q_c - α sum_c q_c log p_c`` with q the softmax of the student and p that of the teacher.
    The second term also makes the student more certain: at q = p the loss is the entropy of p, and its gradient α times
    that of the entropy. `SCE` is of wrong labels, and bounds the logarithm instead.

    Args:
        alpha: α, the share of the reverse term, in [0, 1]; 0 is cross-entropy with the teacher's probabilities.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a setting outside of its range.

    Source:
        Döbler, Marsden, Yang, 2022, "Robust Mean Teacher for Continual and Gradual Test-Time Adaptation",
        arXiv:2211.13081, and their code, mariodoebler/test-time-adaptation.

    Example:
        >>> import torch
        >>> round(RMTSymmetricCrossEntropy()(torch.zeros(1, 4), torch.zeros(1, 4)).item(), 4)
        1.3863
    """

    status = "confirmed"
    evidence = "mariodoebler/test-time-adaptation"
    needs_tail = True

    alpha: Share = 0.5

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_q, log_p = log_probabilities(given.logits), log_probabilities(given.teacher_logits)
        return -(1 - self.alpha) * expectation(log_p, log_q) - self.alpha * expectation(log_q, log_p)
