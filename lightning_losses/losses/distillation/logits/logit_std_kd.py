"""Distillation of standardised logits: the student matches the teacher's logits up to shift and scale."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating, check_number, check_temperature
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import full_precision, log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def standardize_logits(logits: Float[Tensor, "*rows classes"], *, eps: float = 1e-7) -> Float[Tensor, "*rows classes"]:
    """Each row's logits less their mean, over their (unbiased) standard deviation plus `eps`.

    Any loss of logits becomes indifferent to their shift and scale when both networks' logits pass through here.
    Classes masked by -inf stay so and do not enter the statistics; a constant row becomes 0, without the gradient of
    size ``1 / eps`` that the formula has there.

    Raises:
        ValueError: fewer than 2 classes, a dtype that is no floating point, an `eps` below 0.

    Example:
        >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
        tensor([[-1.0000,  0.0000,  1.0000],
                [ 0.0000,  0.0000,  0.0000]])
    """
    check_floating("logit_std_kd", "logits", logits)
    check_number("logit_std_kd", "eps", eps, least=0)
    if logits.ndim == 0 or logits.shape[-1] < 2:
        raise ValueError(
            f"logit_std_kd: logits of shape {list(logits.shape)} came; give at least 2 classes, one has "
            "no standard deviation."
        )
    logits = full_precision(logits)
    finite = torch.isfinite(logits)
    values = logits.masked_fill(~finite, 0.0)
    count = finite.sum(dim=-1, keepdim=True)
    centred = (values - values.sum(dim=-1, keepdim=True) / count.clamp(min=1)).masked_fill(~finite, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
    varied = variance > 0
    deviation = torch.where(varied, torch.where(varied, variance, 1.0).sqrt(), 1.0)
    return torch.where(finite, centred / (deviation + eps), logits)


def logit_std_kd_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 2.0,
    eps: float = 1e-7,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Knowledge distillation of standardised logits; see `LogitStdKD`."""
    check_temperature("logit_std_kd", temperature)
    check_reduction("logit_std_kd", reduction)
    rows = distillation_rows("logit_std_kd", logits, teacher_logits, target, ignore_index)
    log_t, log_s = (
        log_probabilities(standardize_logits(logits, eps=eps), temperature)
        for logits in (rows.teacher_logits, rows.logits)
    )
    return reduce(temperature**2 * kl_divergence(log_t, log_s), reduction, rows.kept)


class LogitStdKD(Loss):
    """Distillation of standardised logits: the student matches the teacher's logits up to shift and scale.

    ``τ² KL(softmax(Z(teacher_logits) / τ) || softmax(Z(logits) / τ))`` with `standardize_logits` as Z. A student need
    not grow logits as large as its teacher's; and the gradient is orthogonal to the student's own logits.

    Args:
        temperature: τ, above 0, in units of each row's standard deviation.
        eps: added to the standard deviation, at least 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C], C of at least 2; target (optional, only tells the ignored samples): [...] or
        [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; one class; a temperature of 0 or less.

    Source:
        Sun, Ren, Li, Wang, Cao, 2024, "Logit Standardization in Knowledge Distillation", arXiv:2403.01427, and its
        code sunshangquan/logit-standardization-KD: weight 9 beside cross-entropy of weight 0.1. On constant rows the
        code's gradient is not a number; here it is that of a standard deviation of 1.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> LogitStdKD()(logits, 3 * logits + 1).item() < 1e-6
        True
    """

    status = "confirmed"
    evidence = "sunshangquan/logit-standardization-KD"

    def __init__(
        self, temperature: float = 2.0, eps: float = 1e-7, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check_temperature("logit_std_kd", temperature)
        check_number("logit_std_kd", "eps", eps, least=0)
        check_reduction("logit_std_kd", reduction)
        self.temperature = temperature
        self.eps = eps
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return logit_std_kd_loss(
            logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            eps=self.eps,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
