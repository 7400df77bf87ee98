"""Skewed reverse divergence: the student against a mixture of the teacher and itself."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.divergences import kl_divergence, weighted_sum
from lightning_losses.numerics.probabilities import log_mean, log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def skew_rkl_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    tau_squared: bool = False,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Skewed reverse KL divergence; see `SkewRKL`."""
    check_number("skew_rkl", "skew", skew, least=0, most=1)
    check_temperature("skew_rkl", temperature)
    check_reduction("skew_rkl", reduction)
    rows = distillation_rows("skew_rkl", logits, teacher_logits, target, ignore_index)
    log_s = log_probabilities(rows.logits, temperature)
    log_t = log_probabilities(rows.teacher_logits, temperature)
    if skew in (0, 1):
        value = kl_divergence(log_s, log_s if skew == 1 else log_t)
    else:
        s = log_s.exp()
        value = weighted_sum(s, log_s - log_mean(s, log_t.exp(), skew))
    return reduce(temperature**2 * value if tau_squared else value, reduction, rows.kept)


class SkewRKL(Loss):
    """Skewed reverse divergence: the student against a mixture of the teacher and itself.

    ``KL(s || (1 - λ) t + λ s)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. At most -log
    λ, where the reverse divergence has no bound; at λ = 0 it is that one. The gradient goes through the student inside
    the mixture as well.

    Args:
        skew: λ, the share of the student in the mixture, in [0, 1].
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Classes masked by -inf in either network add nothing.

    Raises:
        ValueError: shapes or dtypes that do not fit; a skew outside [0, 1]; a temperature of 0 or less.

    Source:
        Ko, Kim, Chen, Yun, 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        arXiv:2402.03898, and its code jongwooko/distillm.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(SkewRKL()(logits, -logits).item(), 4)
        1.0988
    """

    status = "confirmed"
    evidence = "jongwooko/distillm"

    def __init__(
        self,
        skew: float = 0.1,
        temperature: float = 1.0,
        tau_squared: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("skew_rkl", "skew", skew, least=0, most=1)
        check_temperature("skew_rkl", temperature)
        check_reduction("skew_rkl", reduction)
        self.skew = skew
        self.temperature = temperature
        self.tau_squared = tau_squared
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return skew_rkl_loss(
            logits,
            teacher_logits,
            target,
            skew=self.skew,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
