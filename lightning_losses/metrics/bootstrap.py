"""Bootstrap confidence intervals for any statistic of rows."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_choice, check_number

IntervalMethod = Literal["basic", "percentile"]


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
    method: IntervalMethod = "basic",
    least: float | None = 0.0,
) -> Interval:
    """The bootstrap confidence interval of a statistic of rows.

    The rows are drawn with replacement `resamples` times. "percentile" takes the quantiles of the resampled values.
    "basic" reflects them about the estimate, ``[2 s - q_high, 2 s - q_low]``; a calibration error of resampled rows
    is biased upwards like the estimate itself, and the reflection takes that bias off instead of doubling it.

    Args:
        statistic: maps tensors of the same rows to a tensor.
        *rows: tensors whose first dimension is the sample.
        level: the confidence, in (0, 1).
        resamples: how often the rows are drawn.
        seed: of the draws; the same seed and rows give the same interval on every device.
        method: "basic" or "percentile".
        least: the statistic's smallest possible value, where the interval is cut; None if it has none.

    Returns:
        The ends of the interval; NaN where there are no rows.

    Raises:
        ValueError: a level outside (0, 1), fewer than 2 resamples, tensors of different numbers of rows.

    Source:
        Efron, Tibshirani, 1993, "An Introduction to the Bootstrap"; Davison, Hinkley, 1997, "Bootstrap Methods and
        Their Application", section 5.2 (the basic interval).

    Example:
        >>> interval = bootstrap_interval(torch.mean, torch.arange(100.0))
        >>> bool(interval.low < 49.5 < interval.high)
        True
    """
    check_number("bootstrap_interval", "level", level, above=0, most=1 - 1e-9)
    check_number("bootstrap_interval", "resamples", resamples, least=2)
    check_choice("bootstrap_interval", "method", method, IntervalMethod)
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
    if method == "basic":
        low, high = 2 * estimate - high, 2 * estimate - low
    return Interval(low, high) if least is None else Interval(low.clamp(min=least), high.clamp(min=least))
