"""Diffusion spectral entropy: the number of directions of a cloud of points, and how many a label explains."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.diagnostics.checks import check_labels, check_points
from lightning_losses.numerics.checks import check_count, check_number


@torch.no_grad()
def diffusion_spectral_entropy(
    points: Float[Tensor, "samples d"], *, bandwidth: float = 10.0, power: float = 1.0
) -> float:
    """The entropy, in bits, of the eigenvalues of a diffusion over points.

    The Gaussian kernel is normalised by the square roots of its row sums; its absolute eigenvalues are raised to a
    power and scaled to sum 1. The entropy is 0 for points that coincide, and ``log2 n`` for points that are far apart.
    The eigenvalues cost n cubed operations: give at most a few thousand points.

    Args:
        points: [n, d].
        bandwidth: σ, the width of the kernel, above 0.
        power: t, the number of diffusion steps, above 0; with more steps small eigenvalues count less.

    Returns:
        Bits; NaN if the points hold NaN.

    Raises:
        ValueError: no points; a bandwidth or power of 0 or less.

    Source:
        Liao, Liu, Christensen, Tong, Huguet, Wolf, Nickel, Adelstein, Krishnaswamy, 2023, "Assessing Neural Network
        Representations During Training Using Noise-Resilient Diffusion Spectral Entropy", arXiv:2312.04823, whose
        code is followed: its kernel is normalised once, and 2.2e-16 is added to every share.

    Example:
        >>> round(diffusion_spectral_entropy(torch.tensor([[0.0], [1e3], [1e6], [1e9]])), 4)
        2.0
    """
    check_number("diffusion_spectral_entropy", "bandwidth", bandwidth, above=0)
    check_number("diffusion_spectral_entropy", "power", power, above=0)
    check_points("diffusion_spectral_entropy", "points", points)
    wide = points.double()
    if not bool(wide.isfinite().all()):
        return math.nan
    squares = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()
    kernel = torch.exp(-squares / (2 * bandwidth**2)) / (bandwidth * math.sqrt(2 * math.pi))
    root = kernel.sum(dim=1).rsqrt()
    values = torch.linalg.eigvalsh(root.unsqueeze(1) * kernel * root).abs() ** power
    shares = values / values.sum() + torch.finfo(torch.float64).eps
    return max(float(-(shares * shares.log2()).sum()), 0.0)


def diffusion_spectral_information(
    points: Float[Tensor, "samples d"],
    target: Int[Tensor, " samples"],
    *,
    bandwidth: float = 10.0,
    power: float = 1.0,
    repetitions: int = 5,
    generator: torch.Generator | None = None,
) -> float:
    """The bits of `diffusion_spectral_entropy` that a label explains.

    ``Σ_y p(y) [DSE of random subsets of the class's size - DSE of the class]``: subsets are used because the entropy
    grows with the number of points.

    Args:
        points: [n, d].
        target: [n] class indices.
        bandwidth: see `diffusion_spectral_entropy`.
        power: see `diffusion_spectral_entropy`.
        repetitions: number of subsets to average over, at least 1.
        generator: draws the subsets, on the CPU.

    Example:
        >>> points = torch.tensor([[0.0], [0.0], [1e3], [1e3]])
        >>> diffusion_spectral_information(points, torch.tensor([0, 0, 1, 1]), repetitions=50) > 0.4
        True
    """
    check_count("diffusion_spectral_information", "repetitions", repetitions)
    check_points("diffusion_spectral_information", "points", points)
    check_labels("diffusion_spectral_information", points, target)
    settings = {"bandwidth": bandwidth, "power": power}
    total = 0.0
    labels, counts = torch.unique(target, return_counts=True)
    for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
        drawn = [torch.randperm(len(points), generator=generator)[:count] for _ in range(repetitions)]
        subsets = [diffusion_spectral_entropy(points[subset.to(points.device)], **settings) for subset in drawn]
        own = diffusion_spectral_entropy(points[target == label], **settings)
        total += count / len(points) * (sum(subsets) / repetitions - own)
    return total
