"""Cross-entropy with label smoothing, soft targets and class weights."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import classification_rows


def cross_entropy_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    class_weight: Float[Tensor, " classes"] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy; see `CrossEntropy`."""
    check_number("cross_entropy", "label_smoothing", label_smoothing, least=0, most=1)
    check_reduction("cross_entropy", reduction)
    rows = classification_rows("cross_entropy", logits, target, ignore_index)
    assert rows.target is not None
    classes = rows.logits.shape[-1]
    if class_weight is not None and class_weight.shape != (classes,):
        raise ValueError(
            f"cross_entropy: class_weight of shape {list(class_weight.shape)} came with {classes} classes; "
            f"give shape [{classes}]."
        )
    weight = None if class_weight is None else class_weight.to(rows.logits)
    soft = rows.target.is_floating_point()
    value = F.cross_entropy(
        rows.logits.reshape(-1, classes),
        rows.target.reshape(-1, classes) if soft else rows.target.reshape(-1),
        weight=weight,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    value = value.reshape(rows.logits.shape[:-1])
    if reduction != "mean" or weight is None or soft:
        return reduce(value, reduction, rows.kept)
    mass = reduce(weight[rows.target], "sum", rows.kept)
    return reduce(value, "sum", rows.kept) / torch.where(mass > 0, mass, 1.0)


class CrossEntropy(Loss):
    """Cross-entropy with label smoothing, soft targets and class weights.

    ``-sum_k q_k log softmax(logits)_k`` with ``q`` the one-hot (or given) target, smoothed to
    ``(1 - ε) q + ε / C``.

    Args:
        class_weight: C non-negative weights of the classes; with class indices the mean is weighted by them, as in
            torch.
        label_smoothing: ε, in [0, 1].
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction. With every sample ignored it is 0, where torch gives NaN.

    Raises:
        ValueError: shapes or dtypes that do not fit; label_smoothing outside [0, 1].

    Source:
        Wraps `torch.nn.functional.cross_entropy`. Label smoothing: Szegedy et al., 2016, "Rethinking the Inception
        Architecture for Computer Vision", arXiv:1512.00567.

    Example:
        >>> round(CrossEntropy()(torch.zeros(2, 4), torch.tensor([1, 3])).item(), 4)
        1.3863
    """

    status = "paper"
    evidence = "torch's own; its label smoothing with by-liu/MbLS, which is not its authors'"

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("cross_entropy", "label_smoothing", label_smoothing, least=0, most=1)
        check_reduction("cross_entropy", reduction)
        weight = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return cross_entropy_loss(
            logits,
            target,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the samples that are not ignored, each with its class's weight."""
        target = tensors["target"]
        if self.class_weight is None or target.is_floating_point():
            return super().denominator(**tensors)
        kept = target != self.ignore_index
        return reduce(self.class_weight[target.masked_fill(~kept, 0)], "sum", kept)
