"""Top-k divergence: student and teacher are compared on the classes that the teacher likes best."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_count, check_temperature
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def _selected(logits: Float[Tensor, "*rows classes"], top: Int[Tensor, "*rows k"], tail_bucket: bool) -> Tensor:
    chosen = logits.gather(-1, top)
    if not tail_bucket or top.shape[-1] == logits.shape[-1]:
        return chosen
    rest = torch.logsumexp(logits.scatter(-1, top, -torch.inf), dim=-1, keepdim=True)
    return torch.cat([chosen, rest], dim=-1)


def kl_top_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    k: int = 10,
    tail_bucket: bool = False,
    temperature: float = 1.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Top-k divergence; see `KLTop`."""
    check_count("kl_top", "k", k)
    check_temperature("kl_top", temperature)
    check_reduction("kl_top", reduction)
    rows = distillation_rows("kl_top", logits, teacher_logits, target, ignore_index)
    top = rows.teacher_logits.topk(min(k, rows.logits.shape[-1]), dim=-1).indices
    student = _selected(rows.logits / temperature, top, tail_bucket)
    teacher = _selected(rows.teacher_logits / temperature, top, tail_bucket)
    value = kl_divergence(log_probabilities(teacher), log_probabilities(student))
    return reduce(value, reduction, rows.kept)


class KLTop(Loss):
    """Top-k divergence: student and teacher are compared on the classes that the teacher likes best.

    ``KL(t || s)`` with t and s the softmax, at temperature τ, over the k classes of the largest teacher logits alone.
    With `tail_bucket` the other classes enter as one, which makes it a lower bound of the whole divergence.

    Args:
        k: number of classes, at least 1; from C on it is the whole divergence.
        tail_bucket: let all other classes together be one more.
        temperature: τ, above 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a k that is no whole number of at least 1; a temperature of 0 or
            less.

    Source:
        The KL-Top loss of Hu, Cheng, Yang et al., 2025, "OstQuant: Refining Large Language Model Quantization with
        Orthogonal and Scaling Transformations for Better Distribution Fitting", arXiv:2501.13987, as others describe
        it, not compared with its code BrotherHappy/OSTQuant; k = 1000 is reported for vocabularies. The tail bucket is
        this library's.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> round(KLTop(k=2)(logits, torch.tensor([[0.0, 1.0, -9.0]])).item(), 4)
        1.0068
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"

    def __init__(
        self,
        k: int = 10,
        tail_bucket: bool = False,
        temperature: float = 1.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_count("kl_top", "k", k)
        check_temperature("kl_top", temperature)
        check_reduction("kl_top", reduction)
        self.k = k
        self.tail_bucket = tail_bucket
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
        return kl_top_loss(
            logits,
            teacher_logits,
            target,
            k=self.k,
            tail_bucket=self.tail_bucket,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
