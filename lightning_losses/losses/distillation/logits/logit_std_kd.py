"""Distillation of standardised logits: the student matches the teacher's logits up to shift and scale."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.settings import Temperature, Weight

# How many units of rounding a row's logits may spread and still count as constant.
_ROUNDINGS = 16


def standardize_logits(logits: Float[Tensor, "*rows classes"], *, eps: float = 1e-7) -> Float[Tensor, "*rows classes"]:
    """Each row's logits minus their mean, divided by their (unbiased) standard deviation plus `eps`.

    Classes masked by -inf stay masked and are left out of the statistics. A constant row becomes 0, without the
    gradient of size ``1 / eps`` that the formula would give.

    Example:
        >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
        tensor([[-1.0000,  0.0000,  1.0000],
                [ 0.0000,  0.0000,  0.0000]])
    """
    logits = full_precision(logits)
    masked = torch.isneginf(logits)
    values = logits.masked_fill(masked, 0.0)
    count = (~masked).sum(dim=-1, keepdim=True)
    centred = (values - values.sum(dim=-1, keepdim=True) / count.clamp(min=1)).masked_fill(masked, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
    rounding = _ROUNDINGS * torch.finfo(values.dtype).eps * values.detach().abs().amax(dim=-1, keepdim=True)
    varied = variance > rounding.square()
    deviation = torch.where(varied, torch.where(varied, variance, 1.0).sqrt(), 1.0)
    return torch.where(masked, logits, centred / (deviation + eps))


class LogitStdKD(DistillationLoss):
    """Distillation of standardised logits: the student matches the teacher's logits up to shift and scale.

    ``τ² KL(softmax(Z(teacher_logits) / τ) || softmax(Z(logits) / τ))`` with `standardize_logits` as Z. The student's
    logits need not become as large as the teacher's, and the gradient is orthogonal to the student's logits.

    Args:
        temperature: τ, above 0, in units of each row's standard deviation.
        eps: added to the standard deviation, at least 0.

    Shapes:
        logits, teacher_logits: [..., C], C of at least 2; target (optional, only marks ignored samples): [...] or
        [..., C].

    Returns:
        A scalar, or [...] without reduction. A class that the student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; one class; a temperature of 0 or less.

    Source:
        Sun, Ren, Li, Wang, Cao, 2024, "Logit Standardization in Knowledge Distillation", arXiv:2403.01427, and its
        code sunshangquan/logit-standardization-KD: weight 9 beside cross-entropy of weight 0.1. On constant rows the
        code's gradient is NaN; here it is the gradient with a standard deviation of 1.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> LogitStdKD()(logits, 3 * logits + 1).item() < 1e-6
        True
    """

    status = "confirmed"
    evidence = "sunshangquan/logit-standardization-KD"

    temperature: Temperature = 2.0
    eps: Weight = 1e-7

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        s, t = (standardize_logits(logits, eps=self.eps) for logits in (given.logits, given.teacher_logits))
        log_s, log_t = (log_probabilities(logits, self.temperature) for logits in (s, t))
        return self.temperature**2 * kl_divergence(log_t, log_s)
