"""Ranks of several runs over many settings: Friedman's test, and the difference of mean ranks that matters."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch


class Ranks(NamedTuple):
    """The mean ranks of runs over settings, 1 being the best.

    Attributes:
        ranks: by run.
        statistic: Friedman's χ², corrected for ties.
        p: the probability of as large a one if all runs were alike.
        critical_difference: by which two mean ranks must differ, by Nemenyi's test at 5%.
        settings: how many there are.
    """

    ranks: dict[str, float]
    statistic: float
    p: float
    critical_difference: float
    settings: int

    def __str__(self) -> str:
        ordered = sorted(self.ranks.items(), key=lambda item: item[1])
        listed = ", ".join(f"{run} {rank:.2f}" for run, rank in ordered)
        return (
            f"Mean ranks over {self.settings} settings: {listed}. Friedman's chi-squared {self.statistic:.2f}, p = "
            f"{self.p:.3g}; mean ranks that differ by less than {self.critical_difference:.2f} are not told apart "
            "(Nemenyi's test at 5%)."
        )


def friedman(values: Mapping[str, Sequence[float]], *, higher_is_better: bool = True) -> Ranks:
    """Rank runs within each setting, and test whether their mean ranks differ by more than chance.

    Args:
        values: by run, a number for each setting, in one order; NaN is the worst.
        higher_is_better: whether the largest number has rank 1.

    Raises:
        ValueError: fewer than three runs, fewer than two settings, or unlike numbers of settings.

    Source:
        Demšar, 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7.

    Example:
        >>> ranks = friedman({"a": [3, 3, 3, 3], "b": [2, 2, 1, 2], "c": [1, 1, 2, 1]})
        >>> ranks.ranks, round(ranks.statistic, 2), round(ranks.critical_difference, 3)
        ({'a': 1.0, 'b': 2.25, 'c': 2.75}, 6.5, 1.657)
    """
    runs, settings = len(values), {len(numbers) for numbers in values.values()}
    if runs < 3 or len(settings) != 1 or min(settings) < 2:
        raise ValueError(
            f"friedman: {runs} runs of {sorted(settings)} settings came; give three or more, of two or more settings."
        )
    number = settings.pop()
    table = torch.tensor([list(numbers) for numbers in values.values()], dtype=torch.float64).t()
    table = (-table if higher_is_better else table).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    below = (table.unsqueeze(2) > table.unsqueeze(1)).sum(dim=2)
    equal = (table.unsqueeze(2) == table.unsqueeze(1)).sum(dim=2).double()
    # Equal numbers share the mean of their places.
    ranks = below + (equal + 1) / 2
    mean = ranks.mean(dim=0)
    # The sum over ties of t³ - t: each of its t members has t² - 1.
    ties = float((equal**2 - 1).sum())
    spread = number * runs * (runs + 1) / 12 - ties / (12 * (runs - 1))
    statistic = float(number**2 * ((mean - (runs + 1) / 2) ** 2).sum() / spread) if spread > 0 else 0.0
    half = torch.tensor([(runs - 1) / 2, statistic / 2], dtype=torch.float64)
    p = float(torch.special.gammaincc(half[0], half[1]))
    critical = range_quantile(0.95, runs) / math.sqrt(2) * math.sqrt(runs * (runs + 1) / (6 * number))
    return Ranks(dict(zip(values, mean.tolist(), strict=True)), statistic, p, critical, number)


def range_quantile(level: float, number: int) -> float:
    """The quantile of the range of so many standard normal numbers: of the studentised range at infinite degrees.

    Example:
        >>> round(range_quantile(0.95, 5), 3)
        3.858
    """
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    def probability(width: float) -> float:
        within = torch.special.ndtr(z) - torch.special.ndtr(z - width)
        return float(number * torch.trapezoid(density * within ** (number - 1), z))

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < level else (low, middle)
    return (low + high) / 2
