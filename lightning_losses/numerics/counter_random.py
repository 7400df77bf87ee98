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
    return torch.special.ndtri(_counter_uniforms(like, seed, counter)).to(like.dtype)


def counter_uniforms(
    like: Float[Tensor, "*shape"], seed: int, counter: int | float | Tensor
) -> Float[Tensor, "*shape"]:
    """The same numbers as `counter_normals`, uniform in (0, 1); in half precision they may be rounded to 0 or 1.

    Example:
        >>> counter_uniforms(torch.zeros(3), seed=0, counter=7)
        tensor([0.7358, 0.8507, 0.6284])
    """
    return _counter_uniforms(like, seed, counter).to(like.dtype)


def _counter_uniforms(
    like: Float[Tensor, "*shape"], seed: int, counter: int | float | Tensor
) -> Float[Tensor, "*shape"]:
    place = torch.arange(like.numel(), device=like.device)
    # Filled in on the device; a tensor made of a number is copied there, and waited for.
    step = counter if isinstance(counter, Tensor) else torch.full((), int(counter), device=like.device)
    mixed = _mix(_mix(place + _mix(step.to(torch.int64) + seed * 1_000_003)))
    return _uniform(mixed, like).view(like.shape)


def row_uniforms(like: Float[Tensor, "rows ..."], seed: int, keys: Int[Tensor, " rows"]) -> Float[Tensor, "rows ..."]:
    """Numbers uniform in (0, 1) of a tensor's shape, each row a function of the seed and its key.

    In half precision they may be rounded to 0 or 1.

    Args:
        like: [rows, ...] gives shape, device and dtype.
        seed: of all numbers, at least 0.
        keys: [rows] int64, on the same device.

    Example:
        >>> drawn = row_uniforms(torch.zeros(2, 2), seed=0, keys=torch.tensor([3, 4]))
        >>> torch.equal(drawn.flip(0), row_uniforms(torch.zeros(2, 2), seed=0, keys=torch.tensor([4, 3])))
        True
    """
    return _row_uniforms(like, seed, keys).to(like.dtype)


def row_normals(like: Float[Tensor, "rows ..."], seed: int, keys: Int[Tensor, " rows"]) -> Float[Tensor, "rows ..."]:
    """Standard normal numbers of a tensor's shape, each row a function of the seed and its key; see `row_uniforms`.

    Example:
        >>> row_normals(torch.zeros(1, 3), seed=0, keys=torch.tensor([7]))
        tensor([[0.6305, 1.0394, 0.3276]])
    """
    return torch.special.ndtri(_row_uniforms(like, seed, keys)).to(like.dtype)


def _row_uniforms(like: Float[Tensor, "rows ..."], seed: int, keys: Int[Tensor, " rows"]) -> Float[Tensor, "rows ..."]:
    place = torch.arange(like[:1].numel(), device=like.device)
    begin = _mix(keys.to(torch.int64) + seed * 1_000_003 % 2**62)
    return _uniform(_mix(_mix(place + begin.unsqueeze(1))), like).view(like.shape)


def _uniform(mixed: Int[Tensor, "*shape"], like: Float[Tensor, "..."]) -> Float[Tensor, "*shape"]:
    """The middle of one of 2^24 equal parts, never 0 or 1, in float32 or float64: a shorter dtype can't hold them."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    # In float32 the last of them would be rounded to 1.
    return (((mixed & (2**_BITS - 1)).to(dtype) + 0.5) / 2**_BITS).clamp(max=1 - torch.finfo(dtype).eps / 2)


def _mix(numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """SplitMix64 of numbers of 64 bits, whose products wrap around."""
    mixed = numbers + _INCREMENT
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return mixed ^ _shifted(mixed, 31)


def _shifted(numbers: Int[Tensor, "*shape"], places: int) -> Int[Tensor, "*shape"]:
    """To the right, with zeros from the left; torch's own shift repeats the sign."""
    return (numbers >> places) & (2 ** (64 - places) - 1)
