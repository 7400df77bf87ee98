"""The Mahalanobis distance of features from class means, under one covariance for all classes."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.diagnostics.checks import check_labels, check_points


class TiedGaussians(NamedTuple):
    """What is known so far of Gaussians of one covariance, a class each, in float64; 0 for a class without samples.

    Attributes:
        samples: how many there are of each class.
        mean: their mean.
        scatter: the sum over all samples of ``(h - μ_c)(h - μ_c)ᵀ``.
    """

    samples: Float[Tensor, " classes"]
    mean: Float[Tensor, "classes d"]
    scatter: Float[Tensor, "d d"]

    def precision(self, least: float = 0.0) -> Float[Tensor, "d d"]:
        """Σ⁺, the inverse of the covariance ``scatter / samples``; its pseudo-inverse where that is singular.

        Args:
            least: directions of a smaller share of the largest variance count for none. Features that lie in a
                subspace leave it by their rounding, which would weigh more than all else; give the resolution of
                their type, ``torch.finfo(dtype).eps``.
        """
        rtol = max(least, len(self.scatter) * torch.finfo(torch.float64).eps)
        return torch.linalg.pinv(self.scatter / self.samples.sum(), rtol=rtol, hermitian=True)


@torch.no_grad()
def tied_gaussians(
    features: Float[Tensor, "samples d"], target: Int[Tensor, " samples"], classes: int
) -> TiedGaussians:
    """The Gaussians of a batch, for `merged_gaussians`; not all classes need be there, nor samples.

    Args:
        features: [n, d].
        target: [n] class indices.
        classes: how many there are.

    Raises:
        ValueError: shapes that do not fit; targets outside the classes.

    Example:
        >>> gaussians = tied_gaussians(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1]), 2)
        >>> gaussians.mean.flatten().tolist(), gaussians.scatter.item()
        ([0.0, 2.0], 2.0)
    """
    if len(features):
        check_points("tied_gaussians", "features", features)
        check_labels("tied_gaussians", features, target, classes)
    h = features.double()
    samples = h.new_zeros(classes).index_add(0, target, torch.ones_like(target, dtype=h.dtype))
    sums = h.new_zeros(classes, h.shape[1]).index_add(0, target, h)
    mean = sums / samples.clamp(min=1).unsqueeze(1)
    rest = h - mean[target]
    return TiedGaussians(samples, mean, rest.T @ rest)


@torch.no_grad()
def merged_gaussians(*parts: TiedGaussians) -> TiedGaussians:
    """The Gaussians of all samples from those of parts, at least one: of batches, or of processes.

    ``S = S_a + S_b + Σ_c δ_c δ_cᵀ n_ac n_bc / n_c`` with δ_c the difference of a class's means, which loses no digits
    where a mean is large.

    Source:
        Chan, Golub, LeVeque, 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".

    Example:
        >>> parts = [tied_gaussians(torch.tensor([[x]]), torch.tensor([0]), 1) for x in (1.0, 3.0)]
        >>> merged_gaussians(*parts).scatter.item()
        2.0
    """
    whole = parts[0]
    for part in parts[1:]:
        samples = whole.samples + part.samples
        share = (part.samples / samples.clamp(min=1)).unsqueeze(1)
        apart = part.mean - whole.mean
        between = apart.T @ (apart * share * whole.samples.unsqueeze(1))
        whole = TiedGaussians(samples, whole.mean + apart * share, whole.scatter + part.scatter + between)
    return whole


def squared_distances(
    query: Float[Tensor, "queries d"], mean: Float[Tensor, "classes d"], precision: Float[Tensor, "d d"]
) -> Float[Tensor, "queries classes"]:
    """``(q - μ_c)ᵀ P (q - μ_c)`` of each query and class, differentiable.

    Example:
        >>> squared_distances(torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([[0.5]])).item()
        2.0
    """
    difference = query.unsqueeze(1) - mean
    return torch.einsum("qci,ij,qcj->qc", difference, precision, difference)


@torch.no_grad()
def mahalanobis_distances(
    features: Float[Tensor, "samples d"], target: Int[Tensor, " samples"], query: Float[Tensor, "queries d"]
) -> Float[Tensor, "queries classes"]:
    """``(q - μ_c)ᵀ Σ⁺ (q - μ_c)`` of each query and class, in float64.

    Σ is the covariance of the features about their class means, over all classes; it may be singular, up to the
    rounding of the features' type. The score of an input is minus half the smallest distance: it is higher if the input
    is more like the training data.

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
    classes, position = torch.unique(target, return_inverse=True)
    if not bool(features.isfinite().all()):
        return torch.full((len(query), len(classes)), torch.nan, dtype=torch.float64, device=features.device)
    gaussians = tied_gaussians(features, position, len(classes))
    return squared_distances(query.double(), gaussians.mean, gaussians.precision(torch.finfo(features.dtype).eps))
