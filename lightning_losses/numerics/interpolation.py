"""Weighted means of weights and buffers, of which some are no numbers to take a mean of."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def interpolated(
    start: Shaped[Tensor, "*shape"], end: Shaped[Tensor, "*shape"], weight: float
) -> Shaped[Tensor, "*shape"]:
    """``start + weight (end - start)``; entries without a mean are those of the end.

    Integers and booleans count or choose, and infinite entries mask: they are copied. NaN stays NaN. In half precision
    the mean of a small weight rounds back to the start; keep a running average in float32.

    Args:
        start: any tensor; its dtype is the result's.
        end: of the same shape.
        weight: 0 gives the start, 1 the end, exactly.

    Example:
        >>> interpolated(torch.tensor([0.0, -torch.inf]), torch.tensor([2.0, -torch.inf]), 0.5)
        tensor([1., -inf])
    """
    end = end.to(start)
    if weight == 0 and start.is_floating_point():
        return start.clone()
    if weight == 1 or not (start.is_floating_point() or start.is_complex()):
        return end.clone()
    mean = torch.lerp(start, end, weight)
    # Minus infinity less itself is NaN.
    return torch.where(torch.isinf(start) | torch.isinf(end), end, mean)
