"""Lengths and distances of vectors, with derivatives that are finite where a length is 0."""

import torch
from jaxtyping import Float
from torch import Tensor


def unit_rows(vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Vectors divided by their length; a vector of length 0 stays, and has no gradient.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e30, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000],
                [1.0000, 0.0000]])
    """
    # Divided by its largest entry first, the square of no vector is too large or too small for its dtype.
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    empty = largest == 0
    # Over infinity, an empty vector is 0, and so is its gradient.
    scaled = vectors / largest.masked_fill(empty, torch.inf)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).masked_fill(empty, 1.0)


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
