"""Generalised Jensen-Shannon divergence: both networks are compared with their mixture."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.divergences import kl_divergence, weighted_sum
from lightning_losses.numerics.probabilities import log_mean, log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def generalized_jsd_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    tau_squared: bool = False,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Generalised Jensen-Shannon divergence; see `GeneralizedJSD`."""
    check_number("generalized_jsd", "beta", beta, least=0, most=1)
    check_temperature("generalized_jsd", temperature)
    check_reduction("generalized_jsd", reduction)
    rows = distillation_rows("generalized_jsd", logits, teacher_logits, target, ignore_index)
    log_s = log_probabilities(rows.logits, temperature)
    log_t = log_probabilities(rows.teacher_logits, temperature)
    if beta in (0, 1):
        value = kl_divergence(log_t, log_s) if beta == 0 else kl_divergence(log_s, log_t)
    else:
        s, t = log_s.exp(), log_t.exp()
        log_m = log_mean(t, s, beta)
        value = beta * weighted_sum(t, log_t - log_m) + (1 - beta) * weighted_sum(s, log_s - log_m)
    return reduce(temperature**2 * value if tau_squared else value, reduction, rows.kept)


class GeneralizedJSD(Loss):
    """Generalised Jensen-Shannon divergence: both networks are compared with their mixture.

    ``β KL(t || m) + (1 - β) KL(s || m)`` with ``m = β t + (1 - β) s``, ``s = softmax(logits / τ)`` and ``t =
    softmax(teacher_logits / τ)``. Bounded; symmetric at β = 1/2. At β = 0 it is defined as KL(t || s), at β = 1 as KL(s
    || t): limits of the divergence over β and over 1 - β, not of the formula, which tends to 0 there.

    Args:
        beta: β, the weight of the teacher in the mixture, in [0, 1].
        temperature: τ, above 0.
        tau_squared: multiply by τ², which keeps the gradient's size independent of the temperature.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Classes masked by -inf in either network add nothing.

    Raises:
        ValueError: shapes or dtypes that do not fit; a beta outside [0, 1]; a temperature of 0 or less.

    Source:
        Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist, Bachem, 2024, "On-Policy Distillation of Language Models:
        Learning from Self-Generated Mistakes", arXiv:2306.13649, and huggingface/trl's `generalized_jsd_loss`, which
        without labels divides by the number of sequences; here it is always the number of kept tokens. The
        `js_distance` of jongwooko/distillm with lam is this with β = 1 - lam.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(GeneralizedJSD()(logits, -logits).item(), 4)
        0.3278
    """

    status = "paper"
    evidence = "huggingface/trl and jongwooko/distillm, which are not its authors'"

    def __init__(
        self,
        beta: float = 0.5,
        temperature: float = 1.0,
        tau_squared: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("generalized_jsd", "beta", beta, least=0, most=1)
        check_temperature("generalized_jsd", temperature)
        check_reduction("generalized_jsd", reduction)
        self.beta = beta
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
        return generalized_jsd_loss(
            logits,
            teacher_logits,
            target,
            beta=self.beta,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
