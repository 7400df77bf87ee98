"""Reverse divergence: the student keeps to what the teacher finds likely."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_temperature
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def reverse_kl_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 1.0,
    tau_squared: bool = False,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Reverse KL divergence; see `ReverseKL`."""
    check_temperature("reverse_kl", temperature)
    check_reduction("reverse_kl", reduction)
    rows = distillation_rows("reverse_kl", logits, teacher_logits, target, ignore_index)
    log_s = log_probabilities(rows.logits, temperature)
    log_t = log_probabilities(rows.teacher_logits, temperature)
    value = kl_divergence(log_s, log_t)
    return reduce(temperature**2 * value if tau_squared else value, reduction, rows.kept)


class ReverseKL(Loss):
    """Reverse divergence: the student keeps to what the teacher finds likely.

    ``KL(s || t) = sum_k s_k (log s_k - log t_k)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits /
    τ)``. A student too small for all of the teacher picks some of its modes, where the forward divergence would spread
    over all.

    Args:
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Classes masked by -inf in either network add nothing.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Gu, Dong, Wei, Huang, 2024, "MiniLLM: Knowledge Distillation of Large Language Models", arXiv:2306.08543; per
        token as in jongwooko/distillm.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(ReverseKL()(logits, -logits).item(), 4)
        1.5232
    """

    status = "paper"
    evidence = "jongwooko/distillm, which is not its authors'"

    def __init__(
        self,
        temperature: float = 1.0,
        tau_squared: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_temperature("reverse_kl", temperature)
        check_reduction("reverse_kl", reduction)
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
        return reverse_kl_loss(
            logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
