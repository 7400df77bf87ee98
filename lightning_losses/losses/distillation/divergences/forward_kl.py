"""Forward divergence: the student covers whatever the teacher finds likely."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_temperature
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def forward_kl_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 1.0,
    tau_squared: bool = False,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Forward KL divergence; see `ForwardKL`."""
    check_temperature("forward_kl", temperature)
    check_reduction("forward_kl", reduction)
    rows = distillation_rows("forward_kl", logits, teacher_logits, target, ignore_index)
    log_s = log_probabilities(rows.logits, temperature)
    log_t = log_probabilities(rows.teacher_logits, temperature)
    value = kl_divergence(log_t, log_s)
    return reduce(temperature**2 * value if tau_squared else value, reduction, rows.kept)


class ForwardKL(Loss):
    """Forward divergence: the student covers whatever the teacher finds likely.

    ``KL(t || s) = sum_k t_k (log t_k - log s_k)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits /
    τ)``. `KD` is this times τ².

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
        Ko, Kim, Chen, Yun, 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        arXiv:2402.03898, and its code jongwooko/distillm, which leaves out the (constant) entropy of the teacher; this
        is the divergence itself.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(ForwardKL()(logits, -logits).item(), 4)
        1.5232
    """

    status = "confirmed"
    evidence = "jongwooko/distillm"

    def __init__(
        self,
        temperature: float = 1.0,
        tau_squared: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_temperature("forward_kl", temperature)
        check_reduction("forward_kl", reduction)
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
        return forward_kl_loss(
            logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
