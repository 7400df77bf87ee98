"""What a projection head loses of the features before it."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.diagnostics.checks import check_points
from lightning_losses.diagnostics.kernel_similarity import centred_points, effective_rank


class ProjectionGap(NamedTuple):
    """The effective ranks of features before and after a projection.

    Attributes:
        before: of what the projection takes.
        after: of what it gives.
        gap: before - after; above 0 where the projection loses directions.
    """

    before: Float[Tensor, ""]
    after: Float[Tensor, ""]
    gap: Float[Tensor, ""]


@torch.no_grad()
def projection_gap(before: Float[Tensor, "samples d"], after: Float[Tensor, "samples e"]) -> ProjectionGap:
    """How many directions features fill before and after a projection head, by `feature_rank`.

    Contrastive losses are minimised after a head, and features are taken from before it: what the loss makes invariant,
    the head may lose alone.

    Args:
        before: [n, d].
        after: [n, e] of the same samples.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Ours, for the question of Xue, Gan, Ni, Joshi, Mirzasoleiman, 2024, "Investigating the Benefits of Projection
        Head for Representation Learning", arXiv:2403.11391.

    Example:
        >>> features = torch.eye(4)
        >>> [round(value.item(), 2) for value in projection_gap(features, features[:, :2])]
        [3.0, 1.89, 1.11]
    """
    for name, points in (("before", before), ("after", after)):
        check_points("projection_gap", name, points)
    if len(before) != len(after):
        raise ValueError(
            f"projection_gap: features of {len(before)} and {len(after)} samples came; give the same samples twice."
        )
    ranks = feature_rank(before), feature_rank(after)
    return ProjectionGap(*ranks, ranks[0] - ranks[1])


@torch.no_grad()
def feature_rank(features: Float[Tensor, "samples d"]) -> Float[Tensor, ""]:
    """The effective rank of centred features: the exponential of the entropy of their covariance's eigenvalues' shares.

    In float64, by the smaller of covariance and kernel. 0 for equal features; NaN if they hold NaN or infinity.

    Example:
        >>> round(feature_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).item(), 4)
        2.0
    """
    check_points("feature_rank", "features", features)
    x = centred_points(features)
    return effective_rank(x.T @ x if x.shape[1] <= len(x) else x @ x.T)
