"""W&B's early termination: at certain numbers of reports, runs outside the best share are stopped."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_losses.experiments.config.check_config import ConfigError, nearest

_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")


@dataclass(frozen=True)
class Hyperband:
    """Stops runs that are behind at brackets, certain numbers of reports of the metric.

    At the latest bracket that a run has reached, the threshold is the value that the best share 1 / eta of all runs
    reached there. A run stops if it is worse. With `strict` its own value at the bracket counts; otherwise its best
    value so far.

    Attributes:
        brackets: numbers of reports, increasing.
        eta: the inverse of the share that continues, above 1.
        strict: whether only the value at the bracket counts.

    Source: Li et al., 2018, "Hyperband", arXiv:1603.06560, in the variant of W&B's sweeps: a run counts for the
    thresholds as soon as it has reported often enough, and no bracket waits for other runs.

    Example:
        >>> rule = read_hyperband({"type": "hyperband", "min_iter": 2, "eta": 2})
        >>> rule.brackets[:3]
        (2, 4, 8)
        >>> rule.stops([9.0, 8.0], [[9.0, 8.0], [3.0, 2.0], [4.0, 3.0]])
        True
    """

    brackets: tuple[int, ...]
    eta: float
    strict: bool

    def stops(self, own: Sequence[float], histories: Sequence[Sequence[float]]) -> bool:
        """Whether a run stops.

        Args:
            own: its values so far; smaller is better.
            histories: the values of all runs, including its own.
        """
        reached = [bracket for bracket in self.brackets if bracket <= len(own)]
        if not reached:
            return False
        bracket = reached[-1]
        values = sorted(history[bracket - 1] for history in histories if len(history) >= bracket)
        threshold = values[int(1 / self.eta * len(values))]
        return (own[bracket - 1] if self.strict else min(own)) > threshold


def read_hyperband(spec: Mapping[str, Any]) -> Hyperband:
    """The rule in a sweep's ``early_terminate``.

    Raises:
        ConfigError: keys that W&B would refuse.
    """
    for key in spec:
        if key not in _KEYS:
            raise ConfigError(f"early_terminate: there is no '{key}'; {nearest(str(key), _KEYS)}")
    if spec.get("type") != "hyperband":
        raise ConfigError(f"early_terminate: type={spec.get('type')!r} came; give hyperband, the only type.")
    eta, strict = spec.get("eta", 3), spec.get("strict", True)
    if not _number(eta) or eta <= 1:
        raise ConfigError(f"early_terminate: eta={eta!r} came; give a number above 1.")
    if not isinstance(strict, bool):
        raise ConfigError(f"early_terminate: strict={strict!r} came; give true or false.")
    if "max_iter" in spec:
        brackets = _from_above(spec, eta)
    elif "min_iter" in spec:
        first = spec["min_iter"]
        if not _whole(first) or first < 1:
            raise ConfigError(f"early_terminate: min_iter={first!r} came; give a whole number of at least 1.")
        # No run reports more than 1e9 times.
        count = math.ceil(math.log(1e9 / first, eta)) if first < 1e9 else 1
        brackets = [int(first * eta**power) for power in range(min(count, 100))]
    else:
        raise ConfigError("early_terminate: give min_iter, or max_iter and s.")
    return Hyperband(tuple(brackets), float(eta), strict)


def _from_above(spec: Mapping[str, Any], eta: float) -> list[int]:
    last, count = spec["max_iter"], spec.get("s", 0)
    if not _whole(last) or last < 1:
        raise ConfigError(f"early_terminate: max_iter={last!r} came; give a whole number of at least 1.")
    if not _number(count) or int(count) < 1:
        raise ConfigError(
            f"early_terminate: max_iter came with s={count!r}; give s, the number of brackets, at least 1."
        )
    brackets = [int(last / eta**power) for power in range(1, int(count) + 1) if last / eta**power >= 1]
    if not brackets:
        raise ConfigError(f"early_terminate: max_iter={last} leaves no bracket with eta={eta}; give a larger max_iter.")
    return sorted(brackets)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
