"""Bootstrap confidence intervals for any statistic of rows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_number


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
) -> Interval:
    """The bootstrap confidence interval of a statistic of rows.

    The rows are drawn with replacement `resamples` times; the ends are quantiles of the resampled values, moved to the
    estimate where they would leave it out. Not for a statistic that noise biases, as errors in bins are: see
    `calibration_interval`.

    Args:
        statistic: maps tensors of the same rows to a tensor.
        *rows: tensors whose first dimension is the sample.
        level: the confidence, in (0, 1).
        resamples: how often the rows are drawn.
        seed: of the draws; the same seed and rows give the same interval on every device.

    Returns:
        The ends of the interval; NaN where there are no rows.

    Raises:
        ValueError: a level outside (0, 1), fewer than 2 resamples, tensors of different numbers of rows.

    Source:
        Efron, Tibshirani, 1993, "An Introduction to the Bootstrap" (the percentile interval).

    Example:
        >>> interval = bootstrap_interval(torch.mean, torch.arange(100.0))
        >>> bool(interval.low < 49.5 < interval.high)
        True
    """
    check_number("bootstrap_interval", "level", level, above=0, most=1 - 1e-9)
    check_number("bootstrap_interval", "resamples", resamples, least=2)
    if not rows or len({len(tensor) for tensor in rows}) != 1:
        raise ValueError(
            f"bootstrap_interval: tensors of {[len(tensor) for tensor in rows]} rows came; give at least "
            "one, all with a row per sample."
        )
    estimate = statistic(*rows).double()
    count = len(rows[0])
    if count == 0:
        return Interval(torch.full_like(estimate, torch.nan), torch.full_like(estimate, torch.nan))
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(resamples):
        drawn = torch.randint(count, (count,), generator=generator).to(rows[0].device)
        values.append(statistic(*(tensor[drawn] for tensor in rows)).double())
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=estimate.device)
    low, high = torch.quantile(torch.stack(values), tails, dim=0)
    return Interval(torch.minimum(low, estimate), torch.maximum(high, estimate))


def proportion_interval(share: Float[Tensor, "*shape"], count: Float[Tensor, "*shape"] | int, level: float) -> Interval:
    """Wilson's interval of a share of independent samples, within [0, 1].

    Source:
        Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical Inference".

    Example:
        >>> [round(float(end), 3) for end in proportion_interval(torch.tensor(0.99), 100, 0.95)]
        [0.946, 0.998]
    """
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(
        torch.minimum((centre - half).clamp(min=0), share), torch.maximum((centre + half).clamp(max=1), share)
    )
