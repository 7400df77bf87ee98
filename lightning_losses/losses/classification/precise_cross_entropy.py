"""Cross-entropy whose log-softmax runs in a chosen precision."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.divergences import cross_entropy

SoftmaxDtype = Literal["float16", "float32", "float64"]


class PreciseCrossEntropy(ClassificationLoss):
    """Cross-entropy whose log-softmax runs in a chosen precision, whatever precision the network has.

    ``-log softmax(z)_y``. In float32 a row whose margin exceeds about 16.6 has a loss, and a gradient at its true
    class, of exactly 0: the softmax has collapsed, and the row teaches nothing more. In float64 that happens at 36.7,
    in float16 at 7.6.

    Args:
        softmax_dtype: the precision of log-softmax and of the gradient down to the logits. "float16" serves to provoke
            the collapse, not to avoid it; it overflows for logits above 65504.

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction, in the precision of the logits (float32 for half-precision ones).

    Raises:
        ValueError: shapes or dtypes that do not fit; an unknown `softmax_dtype`.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697,
        section 3.3. The released code averages the batch in the chosen precision. Here only log-softmax and a row's
        value use it; the mean has the precision of the logits.

    Example:
        >>> logits = torch.tensor([[25.0, 0.0]])
        >>> target = torch.tensor([0])
        >>> [f"{PreciseCrossEntropy(dtype)(logits, target).item():.1e}" for dtype in ("float32", "float64")]
        ['0.0e+00', '1.4e-11']
    """

    status = "paper"
    evidence = "no golden values; torch's cross-entropy and closed forms in its tests"

    softmax_dtype: SoftmaxDtype = "float64"

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        # Autocast would lift float16 to float32.
        with torch.autocast(given.logits.device.type, enabled=False):
            log_p = torch.log_softmax(given.logits.to(getattr(torch, self.softmax_dtype)), dim=-1)
        soft = given.target.is_floating_point()
        value = cross_entropy(log_p, given.target.to(log_p.dtype) if soft else given.target)
        return value.to(given.logits.dtype)
