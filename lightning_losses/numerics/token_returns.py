"""Sums over the tokens that follow, and values of tokens with mean 0 and variance 1."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def backward_recursion(
    values: Float[Tensor, "batch tokens"], decay: Float[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """``x_t = values_t + decay_t x_{t+1}`` from the last token to the first, which has 0 behind it.

    Example:
        >>> backward_recursion(torch.ones(1, 4), torch.full((1, 4), 0.5))
        tensor([[1.8750, 1.7500, 1.5000, 1.0000]])
    """
    step, tokens = 1, values.shape[1]
    # In log2(T) operations: after each, an entry knows twice as many tokens.
    while step < tokens:
        later = (torch.nn.functional.pad(tensor[:, step:], (0, step)) for tensor in (values, decay))
        values_later, decay_later = later
        values, decay = values + decay * values_later, decay * decay_later
        step *= 2
    return values


def whiten(
    values: Float[Tensor, "batch tokens"],
    kept: Bool[Tensor, "batch tokens"],
    *,
    shift: bool = True,
    unbiased: bool = True,
    eps: float = 1e-8,
) -> Float[Tensor, "batch tokens"]:
    """Values of which those that count have mean 0 and variance 1.

    Equal values, or a single one, become 0, where the mean is subtracted. What does not count is shifted and scaled
    along.

    Args:
        values: of tokens.
        kept: which count.
        shift: False scales the differences from the mean alone, and keeps the mean.
        unbiased: whether the variance divides by one less than the count, as TRL and verl have it; OpenRLHF doesn't.
        eps: is added to the variance.

    Example:
        >>> whiten(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]), unbiased=False)
        tensor([[-1.,  1.,  7.]])
    """
    count = kept.sum()
    known = values.masked_fill(~kept, 0.0)
    mean = known.sum() / count.clamp(min=1)
    variance = (known - mean).masked_fill(~kept, 0.0).square().sum() / (count - int(unbiased)).clamp(min=1)
    # Rounded, a mean need not be that of equal values.
    lowest, highest = (torch.where(kept, values, fill) for fill in (torch.inf, -torch.inf))
    equal = (lowest.amin() >= highest.amax()) if values.numel() else values.new_zeros((), dtype=torch.bool)
    scale = (variance + eps).rsqrt()
    if not shift:
        return (values - mean) * scale + mean
    return ((values - mean) * scale).masked_fill(equal, 0.0)
