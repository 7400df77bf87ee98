"""The information of a layer's activations about inputs and labels: by bins, Gaussian kernels or nearest neighbours."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.diagnostics.checks import check_finite, check_labels, check_points
from lightning_losses.numerics.checks import check_count, check_number


class Information(NamedTuple):
    """Information about the label and about the input, in nats, and `saturation`, the input's share of its maximum."""

    label: float
    input: float
    saturation: float


def fixed_bins(activity: Float[Tensor, "samples d"], width: float) -> Int[Tensor, "samples d"]:
    """The bin of each activation, for bins of equal width.

    Example:
        >>> fixed_bins(torch.tensor([[0.1, 0.9, -0.1]]), 0.5)
        tensor([[ 0,  1, -1]])
    """
    check_number("fixed_bins", "width", width, above=0)
    check_finite("fixed_bins", "activity", activity)
    return torch.floor(activity / width).long()


def uniform_bins(
    activity: Float[Tensor, "samples d"], bins: int, low: float = -1.0, high: float = 1.0
) -> Int[Tensor, "samples d"]:
    """The bin of each activation between `bins` equally spaced edges from `low` to `high`; for saturating units.

    Example:
        >>> uniform_bins(torch.tensor([[-0.9, 0.9]]), 3)
        tensor([[1, 2]])
    """
    check_count("uniform_bins", "bins", bins)
    if not low < high:
        raise ValueError(f"uniform_bins: low={low!r} and high={high!r} came; give low < high.")
    check_finite("uniform_bins", "activity", activity)
    edges = torch.linspace(
        low, high, bins, dtype=torch.promote_types(activity.dtype, torch.float32), device=activity.device
    )
    return torch.bucketize(activity, edges.to(activity.dtype), right=True)


def adaptive_edges(activity: Float[Tensor, "samples d"], bins: int = 30, low: float = 0.0) -> Float[Tensor, " edges"]:
    """Edges with equally many distinct activations of the layer between them; `low` is a bin of its own.

    The repeated value of saturated units counts once, so that it doesn't fill bins.

    Args:
        activity: [n, d] activations of one layer.
        bins: number of bins above `low`.
        low: the resting value of units: 0 for ReLU, just below -1 for tanh.

    Source:
        Chelombiev, Houghton, O'Donnell, 2019, "Adaptive Estimators Show Information Compression in Deep Neural
        Networks", arXiv:1902.09037.

    Example:
        >>> adaptive_edges(torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]), bins=2)
        tensor([0., 1., 3., 4.])
    """
    check_count("adaptive_edges", "bins", bins)
    check_finite("adaptive_edges", "activity", activity)
    values = torch.unique(activity)
    values = values[values != low]
    if len(values) == 0:
        return activity.new_tensor([low])
    chosen = torch.tensor([int(k * len(values) / bins) for k in range(bins)], device=values.device)
    return torch.cat([values.new_tensor([low]), values[chosen], values[-1:]])


def adaptive_bins(activity: Float[Tensor, "samples d"], bins: int = 30, low: float = 0.0) -> Int[Tensor, "samples d"]:
    """The bin of each activation between `adaptive_edges`.

    Example:
        >>> adaptive_bins(torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]), bins=2)
        tensor([[1, 2, 2, 3, 4]])
    """
    return torch.bucketize(activity, adaptive_edges(activity, bins, low), right=True)


def symbol_entropy(symbols: Int[Tensor, "samples d"]) -> float:
    """The entropy in nats of rows taken as symbols, from their frequencies.

    Example:
        >>> round(symbol_entropy(torch.tensor([[0], [0], [1], [1]])), 4)
        0.6931
    """
    _, counts = torch.unique(symbols, dim=0, return_counts=True)
    return float(torch.special.entr(counts.double() / counts.sum()).sum())


def binned_information(symbols: Int[Tensor, "samples d"], target: Int[Tensor, " samples"]) -> Information:
    """Information of a deterministic layer, by bins.

    ``I(T; Y) = H(T) - Σ_y p(y) H(T | y)``, and ``I(T; X) = H(T)`` if all samples differ. In a layer of many units every
    row is its own symbol: then `saturation`, ``H(T) / log n``, is 1 and the estimate says nothing.

    Args:
        symbols: [n, d] bins from `fixed_bins`, `uniform_bins` or `adaptive_bins`.
        target: [n] class indices.

    Source:
        Saxe et al., 2018, "On the Information Bottleneck Theory of Deep Learning", and its authors' code.

    Example:
        >>> symbols = torch.tensor([[0], [0], [1], [1]])
        >>> round(binned_information(symbols, torch.tensor([0, 0, 1, 1])).label, 4)
        0.6931
    """
    if symbols.ndim != 2 or len(symbols) == 0:
        raise ValueError(f"binned_information: symbols of shape {list(symbols.shape)} came; give [samples, d].")
    check_labels("binned_information", symbols, target)
    whole = symbol_entropy(symbols)
    shares = _shares(target)
    label = whole - sum(share * symbol_entropy(symbols[target == y]) for y, share in shares)
    return Information(label, whole, whole / math.log(len(symbols)) if len(symbols) > 1 else 1.0)


@torch.no_grad()
def kde_entropy(activity: Float[Tensor, "samples d"], variance: float, *, upper: bool = True) -> float:
    """A bound, in nats, on the entropy of activations plus Gaussian noise of a given variance.

    Source:
        Kolchinsky, Tracey, 2017, "Estimating Mixture Entropy with Pairwise Distances", arXiv:1706.02419.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0]])
        >>> kde_entropy(points, 1.0) > kde_entropy(points, 1.0, upper=False)
        True
    """
    check_number("kde_entropy", "variance", variance, above=0)
    check_points("kde_entropy", "activity", activity)
    if not upper:
        return kde_entropy(activity, 4 * variance) + activity.shape[1] / 2 * math.log(0.25)
    samples, d = activity.shape
    wide = activity.double()
    squares = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()
    log_density = torch.logsumexp(-squares / (2 * variance), dim=1) - math.log(samples)
    return float(d / 2 - (log_density - d / 2 * math.log(2 * math.pi * variance)).mean())


def kde_information(
    activity: Float[Tensor, "samples d"], target: Int[Tensor, " samples"], variance: float = 1e-3
) -> Information:
    """Information of a layer plus Gaussian noise of a given variance, by the upper bound of `kde_entropy`.

    Example:
        >>> far = torch.tensor([[0.0], [100.0]])
        >>> round(kde_information(far, torch.tensor([0, 1])).input, 4)
        0.6931
    """
    whole = kde_entropy(activity, variance)
    check_labels("kde_information", activity, target)
    noise = activity.shape[1] / 2 * (math.log(2 * math.pi * variance) + 1)
    label = whole - sum(share * kde_entropy(activity[target == y], variance) for y, share in _shares(target))
    return Information(label, whole - noise, (whole - noise) / math.log(max(len(activity), 2)))


@torch.no_grad()
def knn_entropy(samples: Float[Tensor, "samples d"], neighbours: int = 3) -> float:
    """The differential entropy, in nats, of continuous samples of few dimensions, by Kozachenko and Leonenko.

    ``ψ(n) - ψ(k) + log V_d + (d / n) Σ log r_k``, with r_k the distance to the k-th neighbour and V_d the volume of
    the unit ball. Repeated samples have no differential entropy: add noise first.

    Args:
        samples: [n, d].
        neighbours: k, at least 1 and less than n.

    Raises:
        ValueError: k out of range.

    Example:
        >>> torch.manual_seed(0) and round(knn_entropy(torch.rand(2000, 1)), 1) == 0
        True
    """
    check_points("knn_entropy", "samples", samples)
    n, d = samples.shape
    check_count("knn_entropy", "neighbours", neighbours)
    check_number("knn_entropy", "neighbours", neighbours, most=n - 1)
    wide = samples.double()
    distances = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist")
    radius = distances.kthvalue(neighbours + 1, dim=1).values
    volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digamma = torch.digamma(torch.tensor([float(n), float(neighbours)], dtype=torch.float64))
    return float(digamma[0] - digamma[1] + volume + d * radius.log().mean())


@torch.no_grad()
def knn_information(
    activity: Float[Tensor, "samples d"],
    target: Int[Tensor, " samples"],
    *,
    components: int = 2,
    noise: float = 0.1,
    neighbours: int = 3,
    generator: torch.Generator | None = None,
) -> Information:
    """Information of a layer's leading principal components plus Gaussian noise, by nearest neighbours.

    ``I(T; X) = H(Z) - H(noise)`` and ``I(T; Y) = H(Z) - Σ_y p(y) H(Z | y)``, which is limited to the label's entropy,
    because the estimates are noisy.

    Args:
        activity: [n, d].
        target: [n] class indices; classes with at most `neighbours` samples are left out of I(T; Y), which is NaN if no
            class remains.
        components: number of principal components; the estimate is meaningful only up to 3 to 5.
        noise: its standard deviation, above 0.
        neighbours: see `knn_entropy`.
        generator: draws the noise, on the CPU.

    Example:
        >>> knn_information(torch.zeros(50, 4), torch.zeros(50, dtype=torch.int64)).label
        0.0
    """
    check_number("knn_information", "noise", noise, above=0)
    check_count("knn_information", "components", components)
    check_points("knn_information", "activity", activity)
    check_labels("knn_information", activity, target)
    if not bool(activity.isfinite().all()):
        return Information(math.nan, math.nan, math.nan)
    centred = activity.double() - activity.double().mean(dim=0)
    components = min(components, *centred.shape)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    projected = centred @ directions[:components].T
    drawn = torch.randn(projected.shape, generator=generator, dtype=torch.float64).to(projected.device)
    z = projected + noise * drawn
    whole = knn_entropy(z, neighbours)
    kept = [(y, share) for y, share in _shares(target) if int((target == y).sum()) > neighbours]
    total = sum(share for _, share in kept)
    label = whole - sum(share / total * knn_entropy(z[target == y], neighbours) for y, share in kept)
    # If all classes are too small, nothing is known.
    label = min(label, symbol_entropy(target.unsqueeze(1))) if kept else math.nan
    noise_entropy = components / 2 * math.log(2 * math.pi * math.e * noise**2)
    about_input = whole - noise_entropy
    return Information(label, about_input, about_input / math.log(len(activity)))


def _shares(target: Tensor) -> list[tuple[int, float]]:
    labels, counts = torch.unique(target, return_counts=True)
    return [(int(label), int(count) / len(target)) for label, count in zip(labels, counts, strict=True)]
