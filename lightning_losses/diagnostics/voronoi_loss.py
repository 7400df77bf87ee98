"""How far a fitted mixture is from the true one, where several fitted components may share one true component."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.diagnostics.checks import check_points
from lightning_losses.numerics.checks import check_floating


@torch.no_grad()
def voronoi_loss(
    weights: Float[Tensor, " fitted"],
    atoms: Float[Tensor, "fitted d"],
    true_weights: Float[Tensor, " true"],
    true_atoms: Float[Tensor, "true d"],
) -> Float[Tensor, ""]:
    """The distance of a fitted mixture from the true one, for synthetic mixtures of experts. Experimental.

    ``Σ_j |Σ_{i in cell j} w_i - w*_j| + Σ_j Σ_{i in cell j} w_i |θ_i - θ*_j|^r``: the cell of a true atom holds the
    fitted ones that are nearest to it; r is 1 where it holds one, and 2 where it holds several, whose parameters are
    known to converge at half the rate. It is 0 where each true component is split into fitted ones at its own place
    whose weights add up to its own.

    Args:
        weights: [M] of the fitted components, at least 0.
        atoms: [M, d] their parameters, those of gate and expert side by side, on comparable scales.
        true_weights: [N] of the true components.
        true_atoms: [N, d] their parameters.

    Returns:
        A scalar in float64; NaN where something is not a number.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Nguyen, Nguyen, Ho, 2023, "Demystifying Softmax Gating Function in Gaussian Mixture of Experts",
        arXiv:2305.03288, of which this takes the form with one distance of all parameters.

    Example:
        >>> atoms = torch.tensor([[0.0], [0.0], [2.5]])
        >>> voronoi_loss(torch.tensor([0.25, 0.25, 0.5]), atoms, torch.tensor([0.5, 0.5]), atoms[1:] * 0.8).item()
        0.25
    """
    for name, points, of, numbers in (
        ("atoms", atoms, "weights", weights),
        ("true_atoms", true_atoms, "true_weights", true_weights),
    ):
        check_points("voronoi_loss", name, points)
        check_floating("voronoi_loss", of, numbers)
        if numbers.shape != points.shape[:1]:
            raise ValueError(
                f"voronoi_loss: {of} of shape {list(numbers.shape)} came for {len(points)} {name}; give one for each."
            )
    if atoms.shape[1] != true_atoms.shape[1]:
        raise ValueError(
            f"voronoi_loss: atoms of {atoms.shape[1]} parameters came with true_atoms of {true_atoms.shape[1]}; give "
            "both the same."
        )
    weights, true_weights = weights.double(), true_weights.double()
    # By differences: at an atom's own place the distance is exactly 0.
    distance, cell = torch.cdist(atoms.double(), true_atoms.double(), compute_mode="donot_use_mm_for_euclid_dist").min(
        dim=1
    )
    members: Int[Tensor, " true"] = cell.bincount(minlength=len(true_atoms))
    power = torch.where(members[cell] > 1, 2.0, 1.0)
    mass = torch.zeros_like(true_weights).index_add(0, cell, weights)
    return (mass - true_weights).abs().sum() + (weights * distance**power).sum()
