"""Bootstrap confidence intervals for any statistic of rows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_count, check_number

# The number of groups in the jackknife that estimates the skewness.
_GROUPS = 50
# Largest number of random numbers drawn at once.
_CHUNK = 1 << 22
# Smaller differences are taken as rounding errors.
_ROUNDING = 1e-12


class Interval(NamedTuple):
    """A confidence interval; its ends have the shape of the statistic."""

    low: Tensor
    high: Tensor


def bootstrap_interval(
    statistic: Callable[..., Tensor],
    *rows: Shaped[Tensor, "rows ..."],
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
    batched: bool = False,
) -> Interval:
    """The bootstrap confidence interval of a statistic of rows.

    The rows are drawn with replacement `resamples` times. The ends are quantiles of the resampled values, at levels
    corrected for the statistic's bias and skewness (BCa); plain quantiles are too low, for example, for a risk with few
    errors. An end that would exclude the estimate is moved to it. Not for statistics that noise biases, such as binned
    errors: see `calibration_interval`.

    Args:
        statistic: maps tensors of the same rows to a tensor.
        *rows: tensors with one row per sample.
        level: the confidence, in (0, 1).
        resamples: number of resamples.
        seed: seed of the draws; the same seed and rows give the same interval on every device.
        batched: whether the statistic takes many resamples at once (faster), each tensor as [resamples, rows, ...].

    Returns:
        The ends of the interval; NaN with fewer than 2 rows, or if all resamples give the same value and so no
        information.

    Raises:
        ValueError: a level outside (0, 1), fewer than 2 resamples, tensors with different numbers of rows.

    Source:
        Efron, 1987, "Better Bootstrap Confidence Intervals"; the acceleration comes from a jackknife over up to 50
        groups of rows.

    Example:
        >>> interval = bootstrap_interval(torch.mean, torch.arange(100.0))
        >>> bool(interval.low < 49.5 < interval.high)
        True
    """
    check_resampling("bootstrap_interval", level, resamples)
    if not rows or len({len(tensor) for tensor in rows}) != 1:
        raise ValueError(
            f"bootstrap_interval: tensors of {[len(tensor) for tensor in rows]} rows came; give at least "
            "one, all with a row per sample."
        )
    estimate = statistic(*rows).double()
    count = len(rows[0])
    if count < 2:
        return Interval(torch.full_like(estimate, torch.nan), torch.full_like(estimate, torch.nan))
    generator, device = torch.Generator().manual_seed(seed), rows[0].device

    at_once = max(_CHUNK // count, 1) if batched else 1

    def values_of(total: int, choose: Callable[[int, int], Tensor]) -> Tensor:
        parts = []
        for start in range(0, total, at_once):
            chosen = choose(start, min(start + at_once, total)).to(device)
            part = statistic(*(tensor[chosen if batched else chosen[0]] for tensor in rows)).double()
            parts.append(part if batched else part.unsqueeze(0))
        return torch.cat(parts)

    def drawn(start: int, stop: int) -> Tensor:
        return torch.randint(count, (stop - start, count), generator=generator)

    values = values_of(resamples, drawn).sort(dim=0).values
    order, groups = torch.randperm(count, generator=generator), min(count, _GROUPS)
    size = count // groups

    def left(start: int, stop: int) -> Tensor:
        return torch.stack([torch.cat([order[: k * size], order[(k + 1) * size :]]) for k in range(start, stop)])

    without = values_of(groups, left)
    pull = without.mean(dim=0) - without
    squares = pull.square().sum(dim=0)
    acceleration = torch.where(squares > 0, pull.pow(3).sum(dim=0) / (6 * squares.clamp(min=1e-300) ** 1.5), 0.0)
    below = ((values < estimate).double() + 0.5 * (values == estimate)).mean(dim=0)
    bias = torch.special.ndtri(below.clamp(0.5 / resamples, 1 - 0.5 / resamples))

    def quantile(z: float) -> Tensor:
        moved = torch.special.ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
        place = ((resamples + 1) * moved - 1).clamp(0, resamples - 1)
        lower, upper = (values.gather(0, end.long().unsqueeze(0)).squeeze(0) for end in (place.floor(), place.ceil()))
        return torch.lerp(lower, upper, place - place.floor())

    z = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    varies = values[-1] - values[0] > _ROUNDING * estimate.abs().clamp(min=1.0)
    low, high = torch.minimum(quantile(-z), estimate), torch.maximum(quantile(z), estimate)
    return Interval(*(torch.where(varies, end, torch.nan) for end in (low, high)))


def check_resampling(who: str, level: float, resamples: int) -> None:
    """Raise ``ValueError`` unless a level is in (0, 1) and there are at least 2 resamples."""
    check_number(who, "level", level, above=0, most=1 - 1e-9)
    check_count(who, "resamples", resamples)
    check_number(who, "resamples", resamples, least=2)


def quantile_of(values: Float[Tensor, " resamples"], level: float) -> float:
    """`torch.quantile` of a few numbers, without the cost of its checks."""
    ordered = values.sort().values
    place = level * (len(values) - 1)
    low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
    return low + (high - low) * (place - math.floor(place))


def mean_interval(values: Float[Tensor, " rows"], level: float = 0.95) -> Interval:
    """Wilson's interval for the mean of independent numbers in [0, 1], such as shares averaged over seeds.

    For a given mean, 0-or-1 numbers have the largest variance. So the interval is Wilson's at an effective count: the
    number of 0-or-1 samples whose mean would vary as much as these numbers' mean. A 0 and a 1 are added first, because
    rare values may not have occurred.

    Source:
        Korn, Graubard, 1998, "Confidence Intervals for Proportions with Small Expected Number of Positive Counts
        Estimated from Survey Data" (the effective count).

    Example:
        >>> [round(float(end), 3) for end in mean_interval(torch.tensor([1.0] * 99 + [0.0]))]
        [0.946, 0.998]
    """
    if values.ndim != 1 or len(values) == 0 or not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"mean_interval: values of shape {list(values.shape)} came; give [n] numbers within [0, 1].")
    values = values.double()
    mean, variance = values.mean(), torch.cat([values, values.new_tensor([0.0, 1.0])]).var(correction=0)
    return proportion_interval(mean, len(values) * (mean * (1 - mean) / variance).clamp(min=1.0), level)


def proportion_interval(share: Float[Tensor, "*shape"], count: Float[Tensor, "*shape"] | int, level: float) -> Interval:
    """Wilson's interval for a share of independent samples, within [0, 1].

    Source:
        Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical Inference".

    Example:
        >>> [round(float(end), 3) for end in proportion_interval(torch.tensor(0.99), 100, 0.95)]
        [0.946, 0.998]
    """
    check_number("proportion_interval", "level", level, above=0, most=1 - 1e-9)
    counts = torch.as_tensor(count, device=share.device)
    if not bool((counts > 0).all()) or bool(((share < 0) | (share > 1)).any()):
        raise ValueError("proportion_interval: give shares within [0, 1], of more than 0 samples.")
    z = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(
        torch.minimum((centre - half).clamp(min=0), share), torch.maximum((centre + half).clamp(max=1), share)
    )
