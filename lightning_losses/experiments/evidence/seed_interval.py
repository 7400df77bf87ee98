"""The mean of a number over seeds, and how far it can be trusted."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from lightning_losses.experiments.evidence.significance import student_quantile


class SeedInterval(NamedTuple):
    """A mean and the half width of its 95% interval, NaN of a single value."""

    mean: float
    half: float


def seed_interval(values: Sequence[float]) -> SeedInterval:
    """The mean of values that differ by their seed, with Student's 95% interval; NaN where a value is.

    Raises:
        ValueError: no values.

    Example:
        >>> mean, half = seed_interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    if not values:
        raise ValueError("seed_interval: no values came; give at least one.")
    if not all(map(math.isfinite, values)):
        return SeedInterval(math.nan, math.nan)
    mean = statistics.fmean(values)
    if len(values) == 1:
        return SeedInterval(mean, math.nan)
    half = student_quantile(0.95, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return SeedInterval(mean, half)
