"""What is done to embeddings of several views before a formula: checks, and standardisation over the batch."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.regression import refuse_where

# How many units of rounding a feature may spread and still count as constant.
_ROUNDINGS = 4
# Squares of numbers within 2^±40 keep their digits in float32.
_MOST_ORDINARY = 2.0**40


def alike_vectors(loss: str, **vectors: Any) -> tuple[Float[Tensor, "batch dim"], ...]:
    """Vectors of the same samples, in full precision and one dtype.

    Args:
        loss: the name that errors begin with.
        **vectors: [B, D] each, D at least 1.

    Raises:
        ValueError: tensors that are not vectors [B, D], or of different shapes.

    Example:
        >>> a, b = alike_vectors("demo", embeddings=torch.zeros(2, 3).half(), embeddings_b=torch.zeros(2, 3))
        >>> a.dtype == b.dtype == torch.float32
        True
    """
    first, *_ = vectors
    for name, tensor in vectors.items():
        check_embeddings(loss, name, tensor)
        if tensor.shape != vectors[first].shape:
            raise ValueError(
                f"{loss}: {name} of shape {list(tensor.shape)} came with {first} of shape "
                f"{list(vectors[first].shape)}; give vectors of the same samples and the same width."
            )
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in vectors.values()) else torch.float32
    return tuple(full_precision(tensor).to(dtype) for tensor in vectors.values())


def at_unit_size(values: Float[Tensor, "*shape"], dim: tuple[int, ...]) -> Float[Tensor, "*shape"]:
    """Values divided by the size of the largest over some dimensions, a constant; zeros stay.

    What doesn't depend on the scale of its inputs then has none of which squares leave the dtype.

    Example:
        >>> at_unit_size(torch.tensor([[1e-30, -2e-30], [0.0, 0.0]]), dim=(1,))
        tensor([[ 0.5000, -1.0000],
                [ 0.0000,  0.0000]])
    """
    largest = values.detach().abs().amax(dim=dim, keepdim=True)
    return values / torch.where(largest > 0, largest, 1.0)


def refuse_powers(
    loss: str, power: Literal[2, 4], factor: float = 1.0, **vectors: Float[Tensor, "batch *values"]
) -> None:
    """Raise ``ValueError`` for vectors whose squares or fourth powers, times a factor, their dtype doesn't hold.

    On a CPU and under `debug`; elsewhere, and of vectors that are infinite or NaN, the value is none either.

    Example:
        >>> refuse_powers("demo", 2, embeddings=torch.tensor([[1e30]]))
        Traceback (most recent call last):
        ValueError: demo: embeddings holds 1e+30; give numbers up to 7.2e+16 in size, whose squares torch.float32 can \
hold.
    """
    for name, tensor in vectors.items():
        # What a batch sums up stays below the largest number by 2^16.
        limit = (torch.finfo(tensor.dtype).max / 2**16 / factor) ** (1 / power)
        powers = "squares" if power == 2 else "fourth powers"
        told = f"up to {limit:.1e} in size, whose {powers} {tensor.dtype} can hold"
        refuse_where((tensor.abs() > limit) & tensor.isfinite(), loss, name, tensor, told)


def standardised(
    vectors: Float[Tensor, "batch dim"], *, unbiased: bool = False, eps: float = 0.0
) -> Float[Tensor, "batch dim"]:
    """Each feature less its mean over the batch, divided by the root of its variance plus eps.

    Without eps a feature that is constant but for rounding is 0, and has no gradient.

    Args:
        vectors: [B, D], B at least 2.
        unbiased: whether the variance is divided by B - 1, not by B.
        eps: at least 0.

    Example:
        >>> standardised(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """
    largest = vectors.detach().abs().amax(dim=0)
    # Of others squares overflow, or, which eps makes good, underflow. Divided by 1 a feature stays, to the bit.
    ordinary = (largest < _MOST_ORDINARY) & ((largest > 1 / _MOST_ORDINARY) | (largest == 0) | (eps > 0))
    size = largest.masked_fill(ordinary, 1.0)
    scaled = vectors / size
    centred = scaled - scaled.mean(dim=0, keepdim=True)
    variance = centred.square().sum(dim=0) / (len(vectors) - unbiased)
    if eps:
        return centred / (variance + eps / size.square()).sqrt()
    spread = _ROUNDINGS * torch.finfo(vectors.dtype).eps * largest / size
    constant = variance <= spread.square()
    return (centred / variance.masked_fill(constant, 1.0).sqrt()).masked_fill(constant, 0.0)


def off_diagonal_squares(matrix: Float[Tensor, "dim dim"]) -> Float[Tensor, ""]:
    """The sum of the squares beside the diagonal.

    Example:
        >>> off_diagonal_squares(torch.tensor([[9.0, 1.0], [2.0, 9.0]]))
        tensor(5.)
    """
    diagonal = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix.square().masked_fill(diagonal, 0.0).sum()
