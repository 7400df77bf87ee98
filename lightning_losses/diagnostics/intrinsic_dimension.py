"""How many dimensions points fill, by the distances to their nearest neighbours."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.diagnostics.checks import check_points
from lightning_losses.metrics.embedding_rows import blocks
from lightning_losses.numerics.checks import check_choice, check_number

Estimator = Literal["two_nn", "mle"]


@torch.no_grad()
def intrinsic_dimension(
    points: Float[Tensor, "samples d"], *, estimator: Estimator = "two_nn", neighbours: int = 10
) -> Float[Tensor, ""]:
    """The dimension of the set that points are drawn from, which may be far below that of the space around it.

    With r_1 <= r_2 <= ... the distances of a point to its nearest others:

    - "two_nn": ``N / Σ log(r_2 / r_1)`` over the N points.
    - "mle": ``1 / mean_i log(r_k / r_i)``, i from 1 to k - 1, with the mean over points of its inverse taken (the
      harmonic mean of the points' dimensions), which is less biased than theirs.

    Points that are equal to one before are left out. In float64, block by block: memory grows with the points alone.

    Args:
        points: [n, d].
        estimator: "two_nn" or "mle".
        neighbours: k of "mle", at least 2, below the number of distinct points.

    Returns:
        A scalar above 0; infinite where every point is as far from all of its neighbours; NaN if the points hold NaN or
        infinity.

    Raises:
        ValueError: another shape; an unknown estimator; too few distinct points.

    Source:
        "two_nn": Facco, d'Errico, Rodriguez, Laio, 2017, "Estimating the intrinsic dimension of datasets by a minimal
        neighborhood information", arXiv:1803.06992. "mle": Levina, Bickel, 2004, "Maximum Likelihood Estimation of
        Intrinsic Dimension", averaged as MacKay and Ghahramani comment.

    Example:
        >>> plane = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 9)
        >>> 1.8 < intrinsic_dimension(plane).item() < 2.2
        True
    """
    check_points("intrinsic_dimension", "points", points)
    check_choice("intrinsic_dimension", "estimator", estimator, Estimator)
    check_number("intrinsic_dimension", "neighbours", neighbours, least=2)
    x = points.double()
    if not bool(x.isfinite().all()):
        return x.new_tensor(torch.nan)
    x = torch.unique(x, dim=0)
    wanted = 2 if estimator == "two_nn" else neighbours
    if len(x) <= wanted:
        raise ValueError(
            f"intrinsic_dimension: {len(x)} distinct points came for {wanted} neighbours of each; give more points."
        )
    radius = nearest_distances(x, wanted)
    logarithms = (radius[:, -1:] / radius[:, :-1]).log()
    return 1 / logarithms.mean()


def nearest_distances(points: Float[Tensor, "samples d"], neighbours: int) -> Float[Tensor, "samples neighbours"]:
    """The distances of each point to its nearest others, ascending.

    Example:
        >>> nearest_distances(torch.tensor([[0.0], [1.0], [3.0]]), 2)
        tensor([[1., 3.],
                [1., 2.],
                [2., 3.]])
    """
    # Products of distances from the middle lose fewer digits; the differences themselves need no middle.
    centred = points - points.mean(dim=0)
    length = centred.square().sum(dim=1)
    near = []
    for rows in blocks(len(points), max(len(points), neighbours * points.shape[1])):
        squared = length - 2 * centred[rows] @ centred.T
        squared.diagonal(rows.start).fill_(torch.inf)
        # Products find who is near, with the error of lengths; differences tell how near.
        others = points[squared.topk(neighbours, dim=1, largest=False).indices]
        near.append((others - points[rows].unsqueeze(1)).norm(dim=2).sort(dim=1).values)
    return torch.cat(near)
