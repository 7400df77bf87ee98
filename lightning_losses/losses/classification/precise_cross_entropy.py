"""Cross-entropy whose log-softmax runs in a chosen precision."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_choice
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import classification_rows, pick

SoftmaxDtype = Literal["float16", "float32", "float64"]


def precise_cross_entropy_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    softmax_dtype: SoftmaxDtype = "float64",
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy with log-softmax in a chosen precision; see `PreciseCrossEntropy`."""
    check_choice("precise_cross_entropy", "softmax_dtype", softmax_dtype, SoftmaxDtype)
    check_reduction("precise_cross_entropy", reduction)
    rows = classification_rows("precise_cross_entropy", logits, target, ignore_index)
    assert rows.target is not None
    # Autocast would lift float16 to float32.
    with torch.autocast(rows.logits.device.type, enabled=False):
        log_p = torch.log_softmax(rows.logits.to(getattr(torch, softmax_dtype)), dim=-1)
    if rows.target.is_floating_point():
        value = -torch.where(rows.target == 0, 0.0, rows.target.to(log_p.dtype) * log_p).sum(dim=-1)
    else:
        value = -pick(log_p, rows.target)
    return reduce(value.to(rows.logits.dtype), reduction, rows.kept)


class PreciseCrossEntropy(Loss):
    """Cross-entropy whose log-softmax runs in a chosen precision, whatever precision the network has.

    ``-log softmax(z)_y``. In float32 a row whose margin exceeds about 16.6 has a loss, and a gradient at its true
    class, of exactly 0: it has collapsed and teaches nothing more. float64 moves that to 36.7, float16 to 7.6.

    Args:
        softmax_dtype: the precision of log-softmax and of the gradient down to the logits. "float16" is there to
            bring collapse about, not to avoid it; it overflows for logits above 65504.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction, in the precision of the logits (float32 for half-precision ones).

    Raises:
        ValueError: shapes or dtypes that do not fit; an unknown `softmax_dtype`.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697,
        section 3.3. The released code averages the batch in the chosen precision; here only log-softmax and the
        value of a row are in it, and the mean is in that of the logits.

    Example:
        >>> logits = torch.tensor([[25.0, 0.0]])
        >>> target = torch.tensor([0])
        >>> [f"{PreciseCrossEntropy(dtype)(logits, target).item():.1e}" for dtype in ("float32", "float64")]
        ['0.0e+00', '1.4e-11']
    """

    status = "paper"
    evidence = "no golden values; torch's cross-entropy and closed forms in its tests"

    def __init__(
        self, softmax_dtype: SoftmaxDtype = "float64", ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check_choice("precise_cross_entropy", "softmax_dtype", softmax_dtype, SoftmaxDtype)
        check_reduction("precise_cross_entropy", reduction)
        self.softmax_dtype: SoftmaxDtype = softmax_dtype
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return precise_cross_entropy_loss(
            logits,
            target,
            softmax_dtype=self.softmax_dtype,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
