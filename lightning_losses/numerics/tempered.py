"""The tempered logarithm, of which the logarithm is the case at temperature 1."""

import torch
from jaxtyping import Float
from torch import Tensor

# Where exp is continued by its tangent: the sum over a batch of what a logit of 1e4 makes there is finite in float32.
_LARGEST_EXPONENT = 60.0


def tempered_logarithm(log_x: Float[Tensor, "*shape"], temperature: float) -> Float[Tensor, "*shape"]:
    """``log_t x = (x^(1-t) - 1) / (1 - t)`` from log x; log x at t = 1.

    It is exact near x = 1 and near t = 1. Where ``(1 - t) log x`` exceeds 60 it goes on in a straight line, so that
    value and slope stay finite.

    Args:
        log_x: log x; -inf for x = 0.
        temperature: t, any number.

    Example:
        >>> half = torch.tensor(0.5).log()
        >>> [round(tempered_logarithm(half, t).item(), 4) for t in (0.0, 1.0, 2.0)]
        [-0.5, -0.6931, -1.0]
    """
    rate = 1 - temperature
    if rate == 0:
        return log_x
    exponent = rate * log_x
    within = torch.expm1(exponent.clamp(max=_LARGEST_EXPONENT))
    return (within + (exponent - _LARGEST_EXPONENT).clamp(min=0.0) * (within + 1)) / rate
