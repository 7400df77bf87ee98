"""Symmetric divergence: a weighted sum of the forward and the reverse divergence."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.divergences import kl_divergences
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def symmetric_kl_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    reverse_weight: float = 0.9,
    temperature: float = 1.0,
    tau_squared: bool = False,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Weighted sum of forward and reverse KL divergence; see `SymmetricKL`."""
    check_number("symmetric_kl", "reverse_weight", reverse_weight, least=0, most=1)
    check_temperature("symmetric_kl", temperature)
    check_reduction("symmetric_kl", reduction)
    rows = distillation_rows("symmetric_kl", logits, teacher_logits, target, ignore_index)
    log_s = log_probabilities(rows.logits, temperature)
    log_t = log_probabilities(rows.teacher_logits, temperature)
    forward, reverse = kl_divergences(log_t, log_s)
    value = (1 - reverse_weight) * forward + reverse_weight * reverse
    return reduce(temperature**2 * value if tau_squared else value, reduction, rows.kept)


class SymmetricKL(Loss):
    """Symmetric divergence: a weighted sum of the forward and the reverse divergence.

    ``(1 - λ) KL(t || s) + λ KL(s || t)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. At λ
    = 1/2 it is half of Jeffreys' divergence.

    Args:
        reverse_weight: λ, in [0, 1].
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Classes masked by -inf in either network add nothing.

    Raises:
        ValueError: shapes or dtypes that do not fit; a reverse_weight outside [0, 1]; a temperature of 0 or less.

    Source:
        Ko, Kim, Chen, Yun, 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        arXiv:2402.03898, and its code jongwooko/distillm, whose default λ = 0.9 this is; it leaves out the (constant)
        entropy of the teacher, this is the divergence itself.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(SymmetricKL(reverse_weight=0.5)(logits, -logits).item(), 4)
        1.5232
    """

    status = "confirmed"
    evidence = "jongwooko/distillm"

    def __init__(
        self,
        reverse_weight: float = 0.9,
        temperature: float = 1.0,
        tau_squared: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("symmetric_kl", "reverse_weight", reverse_weight, least=0, most=1)
        check_temperature("symmetric_kl", temperature)
        check_reduction("symmetric_kl", reduction)
        self.reverse_weight = reverse_weight
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
        return symmetric_kl_loss(
            logits,
            teacher_logits,
            target,
            reverse_weight=self.reverse_weight,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
