"""The two small quadratic problems of policies of gradients, solved exactly from the gradients' inner products."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import unit_gram


def least_above(gram: Float[Tensor, "terms terms"], lower: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
    """``argmin vᵀ G v`` over ``v >= lower``: the weights that project a gradient onto the cone without conflicts.

    Args:
        gram: G, positive semi-definite, in double precision.
        lower: the lower bounds.

    Example:
        >>> gram = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> least_above(gram, torch.tensor([1.0, 0.0], dtype=torch.float64))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    weights = lower.clone()
    cosines, lengths, kept = unit_gram(gram)
    if len(lengths):
        # Scaled to gradients of length 1, so that long ones don't hide short ones.
        bound = (lower[kept] * lengths).numpy()
        matrix = cosines.numpy()
        weights[kept] = torch.from_numpy(bound + _nonnegative(matrix, -matrix @ bound)) / lengths
    return weights


def shortest_mean(gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
    """``argmin wᵀ G w`` over non-negative weights with sum 1: the shortest vector in the gradients' convex hull.

    Example:
        >>> shortest_mean(torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64)))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    matrix = gram.numpy()
    scale = matrix.trace() / len(matrix)
    if not scale > 0:
        return torch.full((len(matrix),), 1 / len(matrix), dtype=torch.float64)
    # The non-negative minimum of |Jᵀ x|² + (Σ x - 1)² has the direction of w.
    raised = matrix / scale + 1
    lengths = np.sqrt(raised.diagonal())
    direction = _nonnegative(raised / np.outer(lengths, lengths), 1 / lengths) / lengths
    return torch.from_numpy(direction / direction.sum())


def _nonnegative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``argmin xᵀ M x / 2 - targetᵀ x`` over ``x >= 0``, by Lawson and Hanson's active sets."""
    size = len(target)
    solution, free = np.zeros(size), np.zeros(size, dtype=bool)
    least = 1e-14 * size * max(1.0, np.abs(target).max())
    for _ in range(10 * size):
        slope = target - matrix @ solution
        slope[free] = -np.inf
        entering = int(slope.argmax())
        if slope[entering] <= least:
            break
        free[entering] = True
        while True:
            trial = np.zeros(size)
            trial[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], target[free], rcond=1e-15)[0]
            leaving = free & (trial <= 0)
            if not leaving.any():
                break
            shares = solution[leaving] / np.maximum(solution[leaving] - trial[leaving], np.finfo(float).tiny)
            solution = np.maximum(solution + shares.min() * (trial - solution), 0)
            free &= ~(leaving & (solution <= least * 1e-3))
            free[np.flatnonzero(leaving)[shares.argmin()]] = False
            solution[~free] = 0
        solution = trial
    return solution
