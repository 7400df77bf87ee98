"""Total variation: the probability mass on which student and teacher differ."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_temperature
from lightning_losses.numerics.probabilities import probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def total_variation_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 1.0,
    tau_squared: bool = False,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Total variation distance; see `TotalVariation`."""
    check_temperature("total_variation", temperature)
    check_reduction("total_variation", reduction)
    rows = distillation_rows("total_variation", logits, teacher_logits, target, ignore_index)
    t = probabilities(rows.teacher_logits, temperature)
    value = (t - probabilities(rows.logits, temperature)).abs().sum(dim=-1) / 2
    return reduce(temperature**2 * value if tau_squared else value, reduction, rows.kept)


class TotalVariation(Loss):
    """Total variation: the probability mass on which student and teacher differ.

    ``sum_k |t_k - s_k| / 2`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``, in [0, 1]. Its
    square is at most half the divergence (Pinsker). Where probabilities are equal it has a kink; the subgradient there
    is 0.

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
        Wen, Li, Du, Mou, 2023, "f-Divergence Minimization for Sequence-Level Knowledge Distillation", arXiv:2307.15190;
        per token as in jongwooko/distillm.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(TotalVariation()(logits, -logits).item(), 4)
        0.7616
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
        check_temperature("total_variation", temperature)
        check_reduction("total_variation", reduction)
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
        return total_variation_loss(
            logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
