"""OPIS: whether one threshold of distance accepts and rejects equally well for every class."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.embedding_rows import blocks, checked_directions, class_of_each
from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.distances import squared_distances

# Distances, from 0 to 2, are counted in units of 2e-6 to find the range of thresholds.
_UNITS = 1 << 19


class OPIS(NamedTuple):
    """The inconsistency of operating points, and what it is made of, in float64.

    Attributes:
        value: the mean over classes and thresholds of the squared distance of a class's utility from the mean class's.
        worst: the same over the classes whose contributions are largest.
        thresholds: [T] distances.
        utility: [K, T] the utility of each class that has at least two samples.
        classes: [K] which those are.
    """

    value: Float[Tensor, ""]
    worst: Float[Tensor, ""]
    thresholds: Float[Tensor, " thresholds"]
    utility: Float[Tensor, "classes thresholds"]
    classes: Int[Tensor, " classes"]


@torch.no_grad()
def opis(
    embeddings: Float[Tensor, "samples d"],
    target: Int[Tensor, " samples"],
    *,
    false_accepts: tuple[float, float] = (1e-2, 1e-1),
    thresholds: int = 101,
    beta: float = 1.0,
    worst_share: float = 0.1,
) -> OPIS:
    """Operating-point inconsistency: how much the classes' verification accuracy differs at one threshold of distance.

    ``OPIS = mean_c mean_d (U_c(d) - mean_c U_c(d))²`` with ``U_c = (1 + β²) spec sens / (β² spec + sens)``, 0 where
    both are 0: sens is the share of the pairs within class c that are at most d apart, spec that of the pairs with
    exactly one sample in c that are farther. Distances are those of the embeddings scaled to length 1; d runs in equal
    steps between the distances, to 2e-6, at which the given shares of all pairs of different classes are accepted.

    All pairs count, block by block: memory grows with the samples, time with their square.

    Args:
        embeddings: [n, d].
        target: [n] class indices; a class of one sample counts only in the other classes' pairs.
        false_accepts: the shares at the ends of the range, above 0 and at most 1, ascending.
        thresholds: T, at least 1.
        beta: β, above 0; 1 is the harmonic mean.
        worst_share: the share of classes of `OPIS.worst`, above 0 and at most 1; at least one class.

    Returns:
        At least 0, and 0 if all classes have the same distances. NaN if the embeddings hold NaN or infinity.

    Raises:
        ValueError: shapes that do not fit; a single class; no class of two samples; numbers out of range.

    Source:
        Zhang, Xu, Tang, Fang, Wu, Tighe, Xing, 2023, "Threshold-Consistent Margin Loss for Open-World Deep Metric
        Learning", arXiv:2307.04047.

    Example:
        >>> def spread(*angles):
        ...     return torch.stack([torch.tensor(angles).cos(), torch.tensor(angles).sin()], dim=1)
        >>> target = torch.tensor([0, 0, 1, 1])
        >>> opis(spread(0.0, 0.1, 2.0, 2.1), target).value.item()
        0.0
        >>> bool(opis(spread(0.0, 0.1, 1.0, 3.0), target).value > 0.1)
        True
    """
    unit = checked_directions("opis", "embeddings", embeddings)
    target = class_of_each("opis", "target", embeddings, target)
    check_count("opis", "thresholds", thresholds)
    check_number("opis", "beta", beta, above=0)
    check_number("opis", "worst_share", worst_share, above=0, most=1)
    low, high = false_accepts
    check_number("opis", "false_accepts[0]", low, above=0, most=1)
    check_number("opis", "false_accepts[1]", high, least=low, most=1)
    names, label, count = torch.unique(target, return_inverse=True, return_counts=True)
    several = count >= 2
    if len(names) < 2 or not bool(several.any()):
        raise ValueError(
            f"opis: {len(names)} classes came, {int(several.sum())} of them with two samples or more; give at least "
            "two classes, and one of them with two samples."
        )
    if not bool(unit.isfinite().all()):
        nothing = unit.new_full((int(several.sum()), thresholds), torch.nan)
        return OPIS(nothing.mean(), nothing.mean(), nothing[0], nothing, names[several])

    # The last bin is that of pairs of one class.
    apart = torch.zeros(2 * _UNITS + 2, dtype=torch.int64, device=unit.device)
    for _, distance, same in _distances(unit, label):
        units = distance.mul(_UNITS).long().masked_fill_(same, len(apart) - 1)
        apart += torch.bincount(units.flatten(), minlength=len(apart))
    accepts = apart[:-1].cumsum(dim=0)
    pairs = int(accepts[-1])
    # The first distances, rounded up to units, within which the wanted shares lie.
    ends = [(int((accepts < share * pairs * (1 - 1e-12)).sum()) + 1) / _UNITS for share in false_accepts]
    at = torch.linspace(ends[0], ends[1], thresholds, dtype=unit.dtype, device=unit.device)
    # How many pairs of each class lie below each threshold, but not below the one before.
    bins = len(names) * (thresholds + 1)
    counts = torch.zeros(2 * bins, dtype=torch.int64, device=unit.device)
    for rows, distance, same in _distances(unit, label):
        place = torch.bucketize(distance, at).add_(label[rows].unsqueeze(1) * (thresholds + 1))
        counts += torch.bincount(place.add_(same, alpha=bins).flatten(), minlength=2 * bins)
    wrongly, accepted = (
        part.view(len(names), thresholds + 1)[several].cumsum(dim=1)[:, :thresholds].double()
        for part in counts.view(2, bins)
    )
    own = count[several].double().unsqueeze(1)
    sensitivity, specificity = accepted / (own * (own - 1)), 1 - wrongly / (own * (len(label) - own))
    below = beta**2 * specificity + sensitivity
    utility = (1 + beta**2) * specificity * sensitivity / torch.where(below > 0, below, 1.0)
    contribution = (utility - utility.mean(dim=0)).square().mean(dim=1)
    worst = contribution.topk(max(math.ceil(worst_share * len(contribution) - 1e-9), 1)).values.mean()
    return OPIS(contribution.mean(), worst, at, utility, names[several])


def _distances(unit: Tensor, label: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Block by block: its rows, their distances from all samples, and which of these are of the same class.

    A sample is infinitely far from itself: no threshold accepts that pair.
    """
    for rows in blocks(len(unit), len(unit)):
        squared = squared_distances(unit[rows], unit)
        squared.diagonal(rows.start).fill_(torch.inf)
        yield rows, squared.sqrt(), label[rows].unsqueeze(1) == label
