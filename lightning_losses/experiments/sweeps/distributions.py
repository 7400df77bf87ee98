"""The distributions of W&B sweeps: their keys, quantiles and grid points."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_losses.experiments.config.check_config import ConfigError, nearest

# By distribution: the required keys, and the optional ones with W&B's defaults.
_KEYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "constant": (("value",), {}),
    "categorical": (("values",), {}),
    "categorical_w_probabilities": (("values", "probabilities"), {}),
    "int_uniform": (("min", "max"), {}),
    "uniform": (("min", "max"), {}),
    "q_uniform": (("min", "max"), {"q": 1.0}),
    "log_uniform": (("min", "max"), {}),
    "log_uniform_values": (("min", "max"), {}),
    "q_log_uniform": (("min", "max"), {"q": 1.0}),
    "q_log_uniform_values": (("min", "max"), {"q": 1.0}),
    "inv_log_uniform": (("min", "max"), {}),
    "inv_log_uniform_values": (("min", "max"), {}),
    "normal": ((), {"mu": 0.0, "sigma": 1.0}),
    "q_normal": ((), {"mu": 0.0, "sigma": 1.0, "q": 1.0}),
    "log_normal": ((), {"mu": 0.0, "sigma": 1.0}),
    "q_log_normal": ((), {"mu": 0.0, "sigma": 1.0, "q": 1.0}),
}
_NUMBERS = ("min", "max", "mu", "sigma", "q")
_LOGARITHMIC = ("log_uniform", "log_uniform_values", "q_log_uniform", "q_log_uniform_values", "inv_log_uniform")
LOGARITHMIC = (*_LOGARITHMIC, "inv_log_uniform_values", "log_normal", "q_log_normal")
_CATEGORICAL = ("categorical", "categorical_w_probabilities")
_GRID = ("constant", "categorical", "int_uniform", "q_uniform")


@dataclass(frozen=True)
class Distribution:
    """The distribution of one parameter of a sweep.

    Attributes:
        kind: its name in W&B.
        options: its keys and values, including W&B's defaults.

    Example:
        >>> rate = read_distribution("lr", {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1})
        >>> round(rate.quantile(0.5), 6)
        0.01
    """

    kind: str
    options: dict[str, Any]

    @property
    def varies(self) -> bool:
        """Whether there is more than one value."""
        return self.kind != "constant" and not (self.categorical and len(self.options["values"]) == 1)

    @property
    def categorical(self) -> bool:
        """Whether it is a list of values."""
        return self.kind in _CATEGORICAL

    def gives(self, value: Any) -> bool:
        """Whether a value is one of its values; for a range, whether it is a number.

        Example:
            >>> [Distribution("categorical", {"values": [1, 2]}).gives(value) for value in (1, 3, "[1]")]
            [True, False, False]
        """
        if self.kind == "constant":
            return bool(value == self.options["value"])
        if self.categorical:
            return value in self.options["values"]
        return isinstance(value, int | float) and not isinstance(value, bool)

    def quantile(self, share: float) -> Any:
        """The quantile of a share in [0, 1); for a list, the value at that position.

        A uniform share gives a sample; W&B's own sampler uses the same inverse.
        """
        options = self.options
        if self.kind == "constant":
            return options["value"]
        if self.categorical:
            return options["values"][self._place(share)]
        if self.kind == "int_uniform":
            low, high = options["min"], options["max"]
            return min(low + math.floor(share * (high - low + 1)), high)
        value = self._continuous(share)
        if "q" not in options:
            return value
        q, steps = options["q"], round(value / options["q"])
        return steps * q if isinstance(q, int) else _tidy(steps * q)

    def points(self) -> list[Any]:
        """The grid's values, as in W&B: whole numbers with both ends, multiples of q without the upper end."""
        if self.kind == "constant":
            return [self.options["value"]]
        if self.kind == "categorical":
            return list(self.options["values"])
        low, high = self.options["min"], self.options["max"]
        if self.kind == "int_uniform":
            return list(range(low, high + 1))
        q = self.options["q"]
        # The small subtraction keeps rounding from adding a point at the upper end.
        count = math.ceil((high - low) / q - 1e-9)
        return [_tidy(low + place * q) for place in range(count)]

    def ends(self) -> list[Any]:
        """Values to check in place of all: every value of a list, else values near both ends."""
        if self.categorical:
            return list(self.options["values"])
        return [self.quantile(0.0)] if not self.varies else [self.quantile(1e-3), self.quantile(1 - 1e-3)]

    def _place(self, share: float) -> int:
        values = self.options["values"]
        if self.kind == "categorical":
            return min(math.floor(share * len(values)), len(values) - 1)
        below = 0.0
        for place, probability in enumerate(self.options["probabilities"]):
            below += probability
            if share < below:
                return place
        return max(place for place, probability in enumerate(self.options["probabilities"]) if probability > 0)

    def _continuous(self, share: float) -> float:
        options, kind = self.options, self.kind.removeprefix("q_")
        if kind in ("normal", "log_normal"):
            # The ends of a normal distribution are infinite.
            inside = min(max(share, 1e-12), 1 - 1e-12)
            value = options["mu"]
            if options["sigma"] > 0:
                value = statistics.NormalDist(options["mu"], options["sigma"]).inv_cdf(inside)
            return math.exp(value) if kind == "log_normal" else value
        low, high = options["min"], options["max"]
        if kind.endswith("_values"):
            # Also for the inverse kind: the logarithm is uniform between those of the bounds.
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        if kind == "inv_log_uniform":
            # The logarithm of 1 / value is uniform between the bounds.
            return math.exp(-(low + (1 - share) * (high - low)))
        value = low + share * (high - low)
        return math.exp(value) if kind == "log_uniform" else value


def read_distribution(name: str, spec: Mapping[str, Any]) -> Distribution:
    """The distribution described by a parameter's keys.

    Args:
        name: the parameter's name, for errors.
        spec: ``{"value": ...}``, ``{"values": [...]}``, ``{"min": ..., "max": ...}`` or ``{"distribution": ...}``, as
            in W&B.

    Raises:
        ConfigError: keys that W&B would refuse.
    """
    kind = spec["distribution"] if "distribution" in spec else _implied(name, spec)
    if kind not in _KEYS:
        raise ConfigError(f"parameters.{name}: there is no distribution '{kind}'; {nearest(str(kind), _KEYS)}")
    needed, optional = _KEYS[kind]
    given = {key: value for key, value in spec.items() if key != "distribution"}
    for key in given:
        if key not in (*needed, *optional):
            raise ConfigError(
                f"parameters.{name}: {kind} takes no '{key}'; {nearest(str(key), [*needed, *optional, 'distribution'])}"
            )
    for key in needed:
        if key not in given:
            raise ConfigError(f"parameters.{name}: {kind} needs '{key}'.")
    options = {**optional, **given}
    _check(name, kind, options)
    return Distribution(kind, options)


def check_grid(name: str, distribution: Distribution) -> None:
    """Raise `ConfigError` if a distribution has no grid points."""
    if distribution.kind not in _GRID:
        raise ConfigError(
            f"parameters.{name}: method grid takes no {distribution.kind}; give values, whole numbers between min and "
            "max, or q_uniform."
        )


def _implied(name: str, spec: Mapping[str, Any]) -> str:
    """The distribution that W&B assumes if none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" in spec and "max" in spec:
        whole = all(isinstance(spec[end], int) and not isinstance(spec[end], bool) for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    keys = ", ".join(map(str, spec)) or "nothing"
    raise ConfigError(f"parameters.{name}: {keys} came; give value, values, min and max, or distribution.")


def _check(name: str, kind: str, options: Mapping[str, Any]) -> None:
    for key in _NUMBERS:
        if key in options:
            _check_number(name, kind, key, options[key])
    if "min" in options and not options["min"] < options["max"]:
        raise ConfigError(f"parameters.{name}: min={options['min']} is not below max={options['max']}.")
    if kind.endswith("_values") and options["min"] <= 0:
        raise ConfigError(f"parameters.{name}: {kind} takes min above 0, {options['min']} came.")
    if options.get("sigma", 0) < 0:
        raise ConfigError(f"parameters.{name}: sigma={options['sigma']} came; give at least 0.")
    if options.get("q", 1) <= 0:
        raise ConfigError(f"parameters.{name}: q={options['q']} came; give a number above 0.")
    if "values" in options and (not isinstance(options["values"], list) or not options["values"]):
        raise ConfigError(f"parameters.{name}: values={options['values']!r} came; give a list of at least one.")
    if "probabilities" in options:
        _check_probabilities(name, options["values"], options["probabilities"])


def _check_number(name: str, kind: str, key: str, value: Any) -> None:
    wanted = int if kind == "int_uniform" else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        # YAML 1.1, and so W&B, reads 1e-3 as a text.
        hint = " (YAML needs a decimal point: 1.0e-3)" if isinstance(value, str) and "e" in value.lower() else ""
        words = "a whole number" if wanted is int else "a number"
        raise ConfigError(f"parameters.{name}: {key}={value!r} came; {kind} takes {words}{hint}.")
    if not math.isfinite(value):
        raise ConfigError(f"parameters.{name}: {key}={value} came; give a finite number.")


def _check_probabilities(name: str, values: list[Any], probabilities: Any) -> None:
    numbers = isinstance(probabilities, list) and all(
        isinstance(each, (int, float)) and not isinstance(each, bool) and each >= 0 for each in probabilities
    )
    if not numbers or len(probabilities) != len(values) or not math.isclose(sum(probabilities), 1, abs_tol=1e-5):
        raise ConfigError(
            f"parameters.{name}: probabilities={probabilities} came for {len(values)} values; give as many numbers of "
            "at least 0 that add up to 1."
        )


def _tidy(value: float) -> float:
    """Rounded to remove the error in the last digits: 0.3, not 0.30000000000000004."""
    return float(f"{value:.12g}") if isinstance(value, float) else value
