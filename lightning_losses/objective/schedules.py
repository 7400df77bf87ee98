"""Weights that follow a schedule: functions of the fraction of training done."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Constant:
    """The same weight throughout."""

    value: float

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        return self.value


@dataclass(frozen=True)
class _Ramp:
    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        _check_span(type(self).__name__, self.begin, self.until)


@dataclass(frozen=True)
class Linear(_Ramp):
    """From `start` to `end` in a straight line, while `progress` goes from `begin` to `until`; flat outside.

    Example:
        >>> Linear(0.0, 2.0, until=0.5)(0.25)
        1.0
    """

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        return self.start + (self.end - self.start) * _fraction(progress, self.begin, self.until)


@dataclass(frozen=True)
class Cosine(_Ramp):
    """From `start` to `end` along half a cosine, while `progress` goes from `begin` to `until`; flat outside.

    Example:
        >>> round(Cosine(1.0, 0.0)(0.5), 6)
        0.5
    """

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        done = _fraction(progress, self.begin, self.until)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class WarmUp:
    """From 0 to `value` in a straight line while `progress` goes from 0 to `until`; `value` from then on.

    Example:
        >>> WarmUp(2.0, until=0.1)(0.05)
        1.0
    """

    value: float = 1.0
    until: float = 0.1

    def __post_init__(self) -> None:
        _check_span(type(self).__name__, 0.0, self.until)

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        return self.value * _fraction(progress, 0.0, self.until)


@dataclass(frozen=True)
class Switch:
    """`before` until `progress` reaches `at`, `after` from there on.

    For penalties that must wait until a network has learned something. A large step changes what an optimizer remembers
    of past gradients for good; `RestartOptimizer` lets it forget them at the same time.

    Example:
        >>> switch = Switch(1.0, 100.0, at=0.5)
        >>> switch(0.49), switch(0.5)
        (1.0, 100.0)
    """

    before: float
    after: float
    at: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1:
            raise ValueError(f"Switch: at={self.at} came; give a fraction of training from 0 to 1.")

    def __call__(self, progress: float) -> float:
        """The weight at this fraction of training."""
        return self.after if progress >= self.at else self.before


def _check_span(schedule: str, begin: float, until: float) -> None:
    if not 0 <= begin < until <= 1:
        raise ValueError(
            f"{schedule}: begin={begin} and until={until} came; give 0 <= begin < until <= 1, fractions of training."
        )


def _fraction(progress: float, begin: float, until: float) -> float:
    return min(max((progress - begin) / (until - begin), 0.0), 1.0)
