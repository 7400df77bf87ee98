"""The mean of a number over seeds, and how far it can be trusted."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Two-sided 95% quantiles of Student's t, for 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class SeedInterval(NamedTuple):
    """A mean and the half width of its 95% interval, NaN of a single value."""

    mean: float
    half: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval; not known from a single value."""
        return abs(self.mean) > self.half


def seed_interval(values: Sequence[float]) -> SeedInterval:
    """The mean of values that differ by their seed, with Student's 95% interval.

    Raises:
        ValueError: no values.

    Example:
        >>> mean, half = seed_interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    if not values:
        raise ValueError("seed_interval: no values came; give at least one.")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return SeedInterval(mean, math.nan)
    return SeedInterval(mean, _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)))


def _quantile(degrees: int) -> float:
    if degrees <= len(_STUDENT):
        return _STUDENT[degrees - 1]
    # Fisher's expansion about the normal quantile: right to a thousandth from ten degrees of freedom on.
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))
