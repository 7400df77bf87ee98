"""The Mahalanobis distance of features from class means, under one covariance for all classes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.diagnostics.checks import check_labels, check_points


@torch.no_grad()
def mahalanobis_distances(
    features: Float[Tensor, "samples d"], target: Int[Tensor, " samples"], query: Float[Tensor, "queries d"]
) -> Float[Tensor, "queries classes"]:
    """``(q - μ_c)ᵀ Σ⁺ (q - μ_c)`` of each query and class, in float64.

    Σ is the covariance of the features about their class means, over all classes; it may be singular. The score of an
    input is minus half the smallest distance: it is higher if the input is more like the training data.

    Args:
        features: [n, d] features of training samples.
        target: [n] class indices; the result has one column for each class that occurs, ascending.
        query: [m, d].

    Returns:
        [m, classes], at least 0; NaN if the features or the query hold NaN.

    Raises:
        ValueError: shapes that do not fit; no samples.

    Source:
        Lee, Lee, Lee, Shin, 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", arXiv:1807.03888.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [0.0, -1.0], [9.0, 2.0], [9.0, -2.0], [8.0, 0.0], [10.0, 0.0]])
        >>> mahalanobis_distances(features, torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([[9.0, 0.0]]))[0, 1].item()
        0.0
    """
    for name, points in (("features", features), ("query", query)):
        check_points("mahalanobis_distances", name, points)
    check_labels("mahalanobis_distances", features, target)
    if query.shape[1] != features.shape[1]:
        raise ValueError(
            f"mahalanobis_distances: queries of {query.shape[1]} numbers came with features of {features.shape[1]}; "
            "give the same D."
        )
    h, queries = features.double(), query.double()
    classes, position = torch.unique(target, return_inverse=True)
    means = torch.stack([h[position == number].mean(dim=0) for number in range(len(classes))])
    rest = h - means[position]
    if not bool(h.isfinite().all()):
        return torch.full((len(queries), len(classes)), torch.nan, dtype=h.dtype, device=h.device)
    precision = torch.linalg.pinv(rest.T @ rest / len(h), hermitian=True)
    difference = queries.unsqueeze(1) - means
    return torch.einsum("qci,ij,qcj->qc", difference, precision, difference)
