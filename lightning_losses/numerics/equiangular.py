"""Unit vectors of which any two are about equally far apart: fixed vectors for classes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.checks import check_count

# Of the descent: more steps lower the largest cosine by some thousandths. Rows are compared by slices of this many.
_STEPS, _SLICE = 100, 1024


def welch_bound(vectors: int, dim: int) -> float:
    """The least possible largest |cosine| of `vectors` unit vectors in `dim` dimensions, which few sets attain.

    Source:
        Welch, 1974, "Lower Bounds on the Maximum Cross Correlation of Signals".

    Example:
        >>> welch_bound(3, 2), welch_bound(3, 3)
        (0.5, 0.0)
    """
    return 0.0 if vectors <= dim else ((vectors - dim) / (dim * (vectors - 1))) ** 0.5


@torch.no_grad()
def equiangular_basis(vectors: int, dim: int, seed: int = 0) -> Float[Tensor, "vectors dim"]:
    """Unit vectors with a small largest |cosine|; the same for the same sizes and seed.

    With up to `dim` vectors they are orthogonal, with one more the corners of a simplex, whose cosines are
    ``-1 / dim``: both are the best there are. More vectors begin at random and are moved apart: a step lowers a power
    mean of the cosines' sizes, whose power grows from 2 to 256. That takes the cosines of all a hundred times, seconds
    for 1,000 vectors and minutes for 10,000.

    Args:
        vectors: how many, at least 1.
        dim: at least 1.
        seed: of the rotation of a closed form, and of the random vectors.

    Returns:
        [vectors, dim] in float32.

    Raises:
        ValueError: a size below 1.

    Source:
        Shen, Sun, Wei, 2023, "Equiangular Basis Vectors", arXiv:2303.11637, whose descent, on what exceeds a
        threshold, this one is not.

    Example:
        >>> cosines = equiangular_basis(3, 2)
        >>> [round(value, 3) for value in (cosines @ cosines.T)[0].tolist()]
        [1.0, -0.5, -0.5]
    """
    for name, size in (("vectors", vectors), ("dim", dim)):
        check_count("equiangular_basis", name, size)
    generator = torch.Generator().manual_seed(seed)
    if vectors <= dim:
        drawn = torch.randn(dim, vectors, generator=generator, dtype=torch.float64, device="cpu")
        return torch.linalg.qr(drawn).Q.T.float().contiguous()
    if vectors == dim + 1:
        rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64, device="cpu")).Q
        return (_simplex(dim) @ rotation).float()
    return _moved_apart(F.normalize(torch.randn(vectors, dim, generator=generator, device="cpu"), dim=-1))


def _simplex(dim: int) -> Float[Tensor, "vectors dim"]:
    """The corners of a simplex around 0, one more than dimensions, of length 1."""
    place = torch.arange(dim + 1, device="cpu").unsqueeze(1)
    number = torch.arange(1, dim + 1, dtype=torch.float64, device="cpu")
    # Column k of Helmert's matrix: ones above its diagonal, -k on it.
    columns = (place < number).double() - number * (place == number)
    return F.normalize(columns / (number * (number + 1)).sqrt(), dim=-1)


def _moved_apart(vectors: Float[Tensor, "vectors dim"]) -> Float[Tensor, "vectors dim"]:
    for step in range(_STEPS):
        largest = max(float(_cosines(vectors, start).abs().amax()) for start in range(0, len(vectors), _SLICE))
        done = step / _STEPS
        slopes = torch.cat(
            [_slopes(vectors, start, largest, 2.0 ** (1 + 7 * done)) for start in range(0, len(vectors), _SLICE)]
        )
        slopes = slopes - (slopes * vectors).sum(dim=-1, keepdim=True) * vectors
        length = slopes.norm(dim=-1).amax().clamp(min=torch.finfo(slopes.dtype).tiny)
        vectors = F.normalize(vectors - 0.5 * (1 - done) * largest * slopes / length, dim=-1)
    return vectors


def _cosines(vectors: Float[Tensor, "vectors dim"], start: int) -> Float[Tensor, "slice vectors"]:
    """The cosines of a slice of rows with all, 0 with themselves."""
    cosines = vectors[start : start + _SLICE] @ vectors.T
    cosines[:, start:].fill_diagonal_(0.0)
    return cosines


def _slopes(
    vectors: Float[Tensor, "vectors dim"], start: int, largest: float, power: float
) -> Float[Tensor, "slice dim"]:
    """The gradient of ``sum |cosine / largest|^power`` by a slice of rows, but for a factor."""
    cosines = _cosines(vectors, start)
    return ((cosines / largest).abs().pow(power - 1) * cosines.sign()) @ vectors
