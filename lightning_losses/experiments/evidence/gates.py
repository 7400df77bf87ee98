"""The gates of an experiment: claims about its runs, read from its configuration and decided by the runs' numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gate:
    """One claim about numbers of runs.

    Args:
        runs: the runs with this number; one, or several for `order`.
        value: the number's name, such as "highest test accuracy".
        at_least: the smallest that passes.
        at_most: the largest that passes.
        order: "increasing" or "decreasing": from each run to the next.

    Raises:
        ValueError: no bound and no order, or an order of fewer than two runs.

    Example:
        >>> Gate(["fast", "slow"], "delay", order="increasing").passes({"fast": {"delay": 1}, "slow": {"delay": 9}})
        True
    """

    runs: Sequence[str]
    value: str
    at_least: float | None = None
    at_most: float | None = None
    order: str | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None and self.order is None:
            raise ValueError(f"gate on {self.value!r}: give at_least, at_most or order.")
        if self.order is not None and (self.order not in ("increasing", "decreasing") or len(self.runs) < 2):
            raise ValueError(
                f"gate on {self.value!r}: order={self.order!r} of {len(self.runs)} runs came; give 'increasing' or "
                "'decreasing' and at least two runs."
            )

    def passes(self, numbers: Mapping[str, Mapping[str, float]]) -> bool:
        """Whether the numbers, by run and name, are as claimed; NaN never passes.

        Raises:
            ValueError: an unknown run or number.
        """
        found = self.found(numbers)
        if any(math.isnan(number) for number in found):
            return False
        if self.at_least is not None and min(found) < self.at_least:
            return False
        if self.at_most is not None and max(found) > self.at_most:
            return False
        if self.order is None:
            return True
        pairs = itertools.pairwise(found)
        return all(one < next_ if self.order == "increasing" else one > next_ for one, next_ in pairs)

    def found(self, numbers: Mapping[str, Mapping[str, float]]) -> list[float]:
        """The numbers that the claim is about."""
        for run in self.runs:
            if run not in numbers:
                raise ValueError(f"gate on {self.value!r}: there is no run {run!r}; there are {', '.join(numbers)}.")
            if self.value not in numbers[run]:
                raise ValueError(
                    f"gate on {self.value!r}: the run {run!r} has no such number; it has {', '.join(numbers[run])}."
                )
        return [numbers[run][self.value] for run in self.runs]

    def __str__(self) -> str:
        bounds = [f"at least {self.at_least:g}"] if self.at_least is not None else []
        bounds += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        bounds += [f"{self.order} in this order"] if self.order is not None else []
        return f"{self.value} of {', '.join(self.runs)}: {' and '.join(bounds)}"
