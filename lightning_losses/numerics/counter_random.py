"""Random numbers that are a function of a seed and a counter: the same on every device, and without a state."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Steele, Lea, Flood, 2014, "Fast Splittable Pseudorandom Number Generators": SplitMix64's increment and multipliers,
# as signed numbers of 64 bits.
_INCREMENT, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_BITS = 24


def counter_normals(like: Float[Tensor, "*shape"], seed: int, counter: int | float | Tensor) -> Float[Tensor, "*shape"]:
    """Standard normal numbers of a tensor's shape, device and dtype, the same for the same seed and counter.

    Args:
        like: gives shape, device and dtype.
        seed: of all numbers.
        counter: such as the optimizer step; a whole number.

    Example:
        >>> counter_normals(torch.zeros(3), seed=0, counter=7)
        tensor([0.6305, 1.0394, 0.3276])
    """
    place = torch.arange(like.numel(), device=like.device)
    # Filled in on the device; a tensor made of a number is copied there, and waited for.
    step = counter if isinstance(counter, Tensor) else torch.full((), counter, device=like.device)
    mixed = _mix(_mix(place + _mix(step.to(torch.int64) + seed * 1_000_003)))
    # The middle of one of 2^24 equal parts, which float32 tells apart, never 0 or 1.
    uniform = ((mixed & (2**_BITS - 1)).to(like.dtype) + 0.5) / 2**_BITS
    return torch.special.ndtri(uniform).view(like.shape)


def _mix(numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """SplitMix64 of numbers of 64 bits, whose products wrap around."""
    mixed = numbers + _INCREMENT
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return mixed ^ _shifted(mixed, 31)


def _shifted(numbers: Int[Tensor, "*shape"], places: int) -> Int[Tensor, "*shape"]:
    """To the right, with zeros from the left; torch's own shift repeats the sign."""
    return (numbers >> places) & (2 ** (64 - places) - 1)
