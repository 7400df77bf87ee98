"""Tests whether differences that are paired by seed are more than chance, for one or many differences."""

import functools
import math
import statistics
from collections.abc import Sequence

# Below it there is no test and no interval.
FEWEST_SEEDS = 3
# Numbers that differ by less, absolutely or relatively, differ by rounding alone.
_ROUNDING = 1e-12
# Continued fractions are stopped where a factor is 1 to within this.
_PRECISION = 1e-15


def testable(values: Sequence[float]) -> bool:
    """Whether numbers of several seeds allow an estimate of chance: at least three, finite, and not all the same.

    The deviation of two numbers has one degree of freedom: if they agree by luck, it is nearly 0, and any difference
    looks significant. Numbers that are all the same do not depend on the seed, and tell nothing about chance.

    Example:
        >>> testable([0.1, 0.2, 0.1]), testable([0.1, 0.2]), testable([0.1, 0.1, 0.1])
        (True, False, False)
    """
    if len(values) < FEWEST_SEEDS or not all(map(math.isfinite, values)):
        return False
    return max(values) - min(values) > _ROUNDING * max(1.0, *map(abs, values))


def paired_t_test(differences: Sequence[float]) -> float:
    """The two-sided p-value of Student's t test that paired differences have mean 0; NaN where they are not `testable`.

    Exact if the differences are normal. The alternative without this assumption flips the signs of the differences. It
    has 2^n outcomes: with five seeds its p-value is never below 1/16, so it can't reject at 5%, and after a correction
    for many comparisons it can't with ten seeds either. The test agrees with `seed_interval`: p is below 0.05 if the
    95% interval excludes 0.

    Raises:
        ValueError: no differences.

    Example:
        >>> round(paired_t_test([0.8, 1.2, 1.0, 0.9, 1.6]), 4)
        0.0015
    """
    if not differences:
        raise ValueError("paired_t_test: no differences came; give at least one.")
    if not testable(differences):
        return math.nan
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    return student_tails(mean / (deviation / math.sqrt(len(differences))), len(differences) - 1)


def detectable(differences: Sequence[float], power: float = 0.8, level: float = 0.05) -> float:
    """The smallest difference that a paired t test at this level would show with this power, given this scatter.

    ``(t(1 - level, n - 1) + t(2 power - 1, n - 1)) s / sqrt(n)``, t(p, .) being how far from 0 Student's t is with
    probability p and s the differences' standard deviation; NaN where they are not `testable`.

    Source:
        Lehr, 1992, "Sixteen S-squared over D-squared", has the rule of thumb; this is its form for paired differences,
        with Student's quantiles in place of the normal ones.

    Example:
        >>> round(detectable([1.0, 2.0, 3.0, 4.0]), 2)
        2.69
    """
    if not testable(differences):
        return math.nan
    return _shown_by(len(differences), power, level) * statistics.stdev(differences)


def seeds_to_show(
    difference: float, deviation: float, *, power: float = 0.8, level: float = 0.05, most: int = 10_000
) -> int:
    """The number of seeds that would show a difference with this power; ``most + 1`` if even `most` would not.

    Example:
        >>> seeds_to_show(1.0, 1.0), seeds_to_show(0.01, 1.0, most=100)
        (10, 101)
    """
    low, high = FEWEST_SEEDS, most + 1
    while low < high:
        middle = (low + high) // 2
        if _shown_by(middle, power, level) * deviation <= difference:
            high = middle
        else:
            low = middle + 1
    return low


def _shown_by(seeds: int, power: float, level: float) -> float:
    """The difference, in standard deviations, that this number of seeds would show."""
    degrees = seeds - 1
    return (student_quantile(1 - level, degrees) + student_quantile(2 * power - 1, degrees)) / math.sqrt(seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's p-values: rejecting the values below a level makes one or more errors with at most that probability.

    The smallest of m values is multiplied by m, the next one by m - 1, and so on; no result is below the previous one
    or above 1. The correction holds for any dependence between the tests, and rejects at least what Bonferroni's
    correction rejects. NaN marks a missing test; it stays NaN and does not count.

    Source:
        Holm, 1979, "A Simple Sequentially Rejective Multiple Test Procedure".

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min((len(tested) - rank) * p, 1.0))
        adjusted[place] = largest
    return adjusted


def student_tails(t: float, degrees: int) -> float:
    """The probability that a t-distributed number is at least as far from 0 as `t`.

    Example:
        >>> round(student_tails(12.706, 1), 4)
        0.05
    """
    # Two forms of the same number; each is accurate where the other loses digits.
    square = t * t
    if math.isinf(square):
        return 0.0
    if square > 1:
        return _incomplete_beta(degrees / (degrees + square), degrees / 2, 0.5)
    return 1 - _incomplete_beta(square / (degrees + square), 0.5, degrees / 2)


@functools.cache
def student_quantile(level: float, degrees: int) -> float:
    """How far from 0 a t-distributed number is at most, with probability `level`.

    Example:
        >>> round(student_quantile(0.95, 4), 4)
        2.7764
    """
    low, high = 0.0, 1.0
    while student_tails(high, degrees) > 1 - level:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if student_tails(middle, degrees) > 1 - level else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        # Here the continued fraction would converge slowly; by symmetry it is evaluated where it converges fast.
        return 1 - _incomplete_beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)), from the front, by Lentz's method."""
    value, above, below = 1.0, 1.0, 0.0
    for step in range(1, 1000):
        m = step // 2
        if step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        above, below = 1 + term / above, 1 / (1 + term * below)
        value *= above * below
        if abs(above * below - 1) < _PRECISION:
            break
    return value
