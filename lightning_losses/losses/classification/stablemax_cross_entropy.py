"""StableMax cross-entropy: a softmax whose tails are powers instead of exponentials, so that it can't collapse."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import classification_rows, pick

ComputeDtype = Literal["float32", "float64"]


def stablemax_scores(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """``sign(z) log(1 + |z|)``: the scores whose softmax is StableMax."""
    # Each half sees only its own side, so neither makes a NaN; at 0 the first one has the slope, 1, the other none.
    positive = logits >= 0
    return torch.log1p(torch.where(positive, logits, 0.0)) - torch.log1p(torch.where(positive, 0.0, -logits))


def log_stablemax(logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """The logarithms of the StableMax probabilities, in the precision of the logits.

    Example:
        >>> log_stablemax(torch.tensor([1.0, -1.0])).exp()
        tensor([0.8000, 0.2000])
    """
    return log_probabilities(stablemax_scores(logits))


def stablemax_cross_entropy_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    label_smoothing: float = 0.0,
    compute_dtype: ComputeDtype = "float64",
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """StableMax cross-entropy; see `StableMaxCrossEntropy`."""
    check_number("stablemax_cross_entropy", "label_smoothing", label_smoothing, least=0, most=1)
    check_choice("stablemax_cross_entropy", "compute_dtype", compute_dtype, ComputeDtype)
    check_reduction("stablemax_cross_entropy", reduction)
    rows = classification_rows("stablemax_cross_entropy", logits, target, ignore_index)
    assert rows.target is not None
    log_q = log_stablemax(rows.logits.to(getattr(torch, compute_dtype)))
    if rows.target.is_floating_point():
        value = -torch.where(rows.target == 0, 0.0, rows.target * log_q).sum(dim=-1)
    else:
        value = -pick(log_q, rows.target)
    if label_smoothing > 0:
        value = (1 - label_smoothing) * value - label_smoothing * log_q.mean(dim=-1)
    return reduce(value, reduction, rows.kept)


class StableMaxCrossEntropy(Loss):
    """Cross-entropy with StableMax in the place of softmax.

    ``-log q_y`` with ``q_k = s(z_k) / sum_j s(z_j)``, ``s(z) = z + 1`` for z >= 0 and ``1 / (1 - z)`` below. A
    confident row's loss falls like a power of its margin, not exponentially, so it never rounds to exactly 0 and its
    gradient never stops. Predictions are those of softmax (s increases); probabilities are not: use `log_stablemax`
    where calibration is measured.

    Args:
        label_smoothing: ε, in [0, 1]; mixes the target with the uniform distribution, as in cross-entropy.
        compute_dtype: the precision of the transform, the normalisation and the result.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction, in `compute_dtype`.

    Raises:
        ValueError: shapes or dtypes that do not fit; an unknown `compute_dtype`; label_smoothing outside [0, 1].

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697.
        Evaluated as softmax cross-entropy of sign(z) log(1 + |z|) (the paper's Proposition 1): the released code
        forms s(z) and selects with `where`, whose unused branch makes a NaN gradient at z = 1 in float32. Label
        smoothing and soft targets are extensions. Nothing is subtracted from the logits: s is not shift invariant.

    Example:
        >>> logits = torch.tensor([[50.0, 0.0]])
        >>> round(StableMaxCrossEntropy()(logits, torch.tensor([0])).item(), 4)
        0.0194
    """

    status = "confirmed"
    evidence = "LucasPrietoAl/grokking-at-the-edge-of-numerical-stability"

    def __init__(
        self,
        label_smoothing: float = 0.0,
        compute_dtype: ComputeDtype = "float64",
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("stablemax_cross_entropy", "label_smoothing", label_smoothing, least=0, most=1)
        check_choice("stablemax_cross_entropy", "compute_dtype", compute_dtype, ComputeDtype)
        check_reduction("stablemax_cross_entropy", reduction)
        self.label_smoothing = label_smoothing
        self.compute_dtype: ComputeDtype = compute_dtype
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return stablemax_cross_entropy_loss(
            logits,
            target,
            label_smoothing=self.label_smoothing,
            compute_dtype=self.compute_dtype,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
