"""The mean of a number over seeds, and its confidence interval."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from lightning_losses.experiments.evidence.significance import student_quantile, testable


class SeedInterval(NamedTuple):
    """A mean and the ends of its interval, NaN where there is none."""

    mean: float
    low: float
    high: float

    def within(self, least: float, most: float) -> "SeedInterval":
        """The part of the interval that lies within the range of a bounded number.

        The true value is within the range, so the coverage stays the same. Student's interval ignores the range: at an
        accuracy of 99.5% it may extend above 100%.

        Source:
            Mandelkern, 2002, "Setting Confidence Intervals for Bounded Parameters" (the intersection with the range).

        Example:
            >>> seed_interval([0.98, 0.99, 1.0]).within(0.0, 1.0).high
            1.0
        """
        if math.isnan(self.low):
            return self
        return SeedInterval(self.mean, min(max(self.low, least), self.mean), max(min(self.high, most), self.mean))


NO_INTERVAL = SeedInterval(math.nan, math.nan, math.nan)


def seed_interval(values: Sequence[float], level: float = 0.95) -> SeedInterval:
    """The mean of values that differ by their seed, with Student's interval; NaN where a value is.

    Below three seeds, or where the values do not differ, there is no interval: see `testable`.

    Args:
        values: a number a seed.
        level: the probability that the interval contains the true value.

    Raises:
        ValueError: no values.

    Example:
        >>> mean, low, high = seed_interval([1.0, 2.0, 3.0])
        >>> mean, round(low, 3), round(high, 3)
        (2.0, -0.484, 4.484)
    """
    if not values:
        raise ValueError("seed_interval: no values came; give at least one.")
    if not all(map(math.isfinite, values)):
        return NO_INTERVAL
    mean = statistics.fmean(values)
    if not testable(values):
        return NO_INTERVAL._replace(mean=mean)
    half = student_quantile(level, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return SeedInterval(mean, mean - half, mean + half)
