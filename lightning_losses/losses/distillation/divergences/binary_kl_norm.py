"""Normalised binary divergence: each logit is matched on its own, relative to the teacher's."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_temperature
from lightning_losses.numerics.probabilities import known_finite
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def binary_kl_norm_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 2.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Normalised binary divergence; see `BinaryKLNorm`."""
    check_temperature("binary_kl_norm", temperature)
    check_reduction("binary_kl_norm", reduction)
    rows = distillation_rows("binary_kl_norm", logits, teacher_logits, target, ignore_index)
    difference = rows.logits - rows.teacher_logits
    if difference.device.type == "cpu":
        value = _log_cosh(difference / temperature).sum(dim=-1)
        if known_finite(value):
            return reduce(temperature**2 * value, reduction, rows.kept)
    difference = difference.masked_fill(~torch.isfinite(difference), 0.0)
    value = _log_cosh(difference / temperature).sum(dim=-1)
    return reduce(temperature**2 * value, reduction, rows.kept)


def _log_cosh(x: Tensor) -> Tensor:
    """``log cosh(x / 2)``."""
    return (F.softplus(x) - math.log(2)).sub_(x, alpha=0.5)


class BinaryKLNorm(Loss):
    """Normalised binary divergence: each logit is matched on its own, relative to the teacher's.

    ``τ² sum_k log cosh((logits_k - teacher_logits_k) / (2 τ))``, which is ``τ² sum_k KL(Bernoulli(1/2) ||
    Bernoulli(sigmoid((logits_k - teacher_logits_k) / τ)))``. Near the teacher it is ``|logits - teacher_logits|² / 8``,
    far away it grows in a line. Unlike divergences of softmax it sees the logits' shift. The authors give it a second
    head of the student on the same features, which is dropped after training (take it with ``inputs: {logits: <the
    second head's name>}``).

    Args:
        temperature: τ, above 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Yang, Zong, Huang, Feng, An, 2024, "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an
        Auxiliary Head", arXiv:2411.08937, and its code penghui-yang/DHKD, which clamps sigmoids and so becomes infinite
        where logits are far apart in float32; this form does not.

    Example:
        >>> round(BinaryKLNorm()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])).item(), 4)
        0.4805
    """

    status = "confirmed"
    evidence = "penghui-yang/DHKD"

    def __init__(
        self,
        temperature: float = 2.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_temperature("binary_kl_norm", temperature)
        check_reduction("binary_kl_norm", reduction)
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return binary_kl_norm_loss(
            logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
