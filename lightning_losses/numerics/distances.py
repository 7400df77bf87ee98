"""Lengths and distances of vectors, with derivatives that are finite where a length is 0."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.derivatives import in_transform
from lightning_losses.numerics.probabilities import known_everywhere

# The square of a length within 2^±40 loses nothing that counts in float32.
_MOST_ORDINARY = 2.0**40


def unit_rows(vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Vectors divided by their length; a vector of length 0 stays, and has no gradient.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e30, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000],
                [1.0000, 0.0000]])
    """
    # The length of a long vector in float16 is infinite.
    if in_transform() or torch.compiler.is_compiling() or vectors.dtype.itemsize < 4:
        scaled, length, _ = _scaled(vectors, _lengths(vectors.detach()))
        return scaled / length
    unit: Tensor = _UnitRows.apply(vectors)
    return unit


def _lengths(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return lengths


def _scaled(vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors over their largest entry, their length then, and that entry; infinity where a vector is empty.

    A vector of ordinary length is divided by 1: it comes to the same, to the bit, whatever vectors are beside it.
    """
    # Divided by its largest entry first, the square of no vector is too large or too small for its dtype.
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    # Over infinity, an empty vector is 0, and so is its gradient.
    largest = largest.masked_fill(largest == 0, torch.inf)
    if vectors.dtype.itemsize >= 4:
        largest = largest.masked_fill(_ordinary(lengths), 1.0)
    scaled = vectors / largest
    length = _lengths(scaled)
    return scaled, length.masked_fill(length == 0, 1.0), largest


def _ordinary(length: Tensor) -> Tensor:
    return torch.maximum(length, length.reciprocal()) < _MOST_ORDINARY


class _UnitRows(torch.autograd.Function):
    """It keeps the vectors alone, where autograd keeps two more of their size."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        length = _lengths(vectors)
        if known_everywhere(_ordinary(length)):
            ctx.save_for_backward(vectors, length)
            return vectors / length
        scaled, length, largest = _scaled(vectors, length)
        ctx.save_for_backward(vectors, length * largest)
        return scaled.div_(length)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        vectors, length = ctx.saved_tensors
        if torch.is_grad_enabled():
            # For second derivatives the length depends on the vectors.
            _, of_scaled, largest = _scaled(vectors, _lengths(vectors.detach()))
            length = of_scaled * largest
        unit = vectors / length
        # Autocast takes it for a product of matrices.
        with torch.autocast(unit.device.type, enabled=False):
            along = torch.linalg.vecdot(unit, upstream[0]).unsqueeze(-1)
        if torch.is_grad_enabled():
            return (upstream[0] - unit * along) / length
        return torch.addcmul(upstream[0], unit, along, value=-1).div_(length)


def squared_distances(a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows columns"]:
    """``|a_i - b_j|²`` of all pairs, by one matrix product; at least 0.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([[25.,  1.]])
    """
    of_a, of_b = a.square().sum(dim=-1, keepdim=True), b.square().sum(dim=-1, keepdim=True)
    return (of_a + of_b.mT - 2 * a @ b.mT).clamp(min=0.0)


def distances(a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows columns"]:
    """``|a_i - b_j|`` of all pairs; where two are equal the distance is 0 and has no gradient.

    Example:
        >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[5., 0.]])
    """
    squared = squared_distances(a, b)
    equal = squared == 0
    return squared.masked_fill(equal, 1.0).sqrt().masked_fill(equal, 0.0)
