"""What a comparison must show for a claim to count as reproduced, decided by its numbers."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_losses.experiments.config.check_config import ConfigError, nearest
from lightning_losses.experiments.evidence.seed_interval import SeedInterval, seed_interval
from lightning_losses.experiments.evidence.significance import holm
from lightning_losses.experiments.evidence.verdicts import PValues, Verdict, judge, margin_tests

# By setting, run and metric: a number a seed.
Values = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
LEVEL = 0.05
# What a claim may ask for beside a difference; see `Claim`.
GUARDS = ("teacher", "overconfidence", "control")
# Words in the names of the numbers of which more is better.
_MORE_IS_BETTER = (
    "accuracy", "precision", "recall", "_f1", "mrr", "map_at_r", "parse_rate", "pooled_auc", "auroc", "aupr",
)  # fmt: skip


def more_is_better(metric: str) -> bool:
    """Whether a larger number of a metric is the better one.

    Example:
        >>> more_is_better("recall_at_1"), more_is_better("nll")
        (True, False)
    """
    return any(word in metric for word in _MORE_IS_BETTER)


@dataclass(frozen=True)
class Difference:
    """A claimed difference between two runs.

    Args:
        run: the label of the run that the claim is about.
        than: the label of the run that it is compared with.
        metric: what is compared.
        shows: "higher" or "lower", a difference that must show; or a margin that the run must not be worse by, above 0:
            lower where more is better, as of accuracy, higher where less is, as of an error.
        setting: the label of the setting.

    Raises:
        ConfigError: another `shows`.
    """

    run: str
    than: str
    metric: str
    shows: Literal["higher", "lower"] | float
    setting: str = ""

    def __post_init__(self) -> None:
        margin = isinstance(self.shows, int | float) and not isinstance(self.shows, bool) and self.shows > 0
        if self.shows not in ("higher", "lower") and not margin:
            raise ConfigError(f"claims: shows={self.shows!r} came; give higher, lower, or a margin above 0.")

    def paired(self, values: Values) -> list[float]:
        """The differences, a seed each."""
        own, other = (values[self.setting][run][self.metric] for run in (self.run, self.than))
        return [one - two for one, two in zip(own, other, strict=True)]

    def gains(self, values: Values) -> list[float]:
        """The differences, a seed each, above 0 where they are as claimed."""
        if self.shows == "higher" or (self.is_margin and more_is_better(self.metric)):
            gains = self.paired(values)
        else:
            gains = [-difference for difference in self.paired(values)]
        return [gain + float(self.shows) for gain in gains] if self.is_margin else gains

    @property
    def is_margin(self) -> bool:
        """Whether the claim is that the run is no worse by more than a margin."""
        return not isinstance(self.shows, str)

    def is_about(self, values: Values) -> bool:
        """Whether its setting and runs were compared.

        Raises:
            ConfigError: a metric that there isn't.
        """
        runs = values.get(self.setting, {})
        if self.run not in runs or self.than not in runs:
            return False
        if self.metric not in runs[self.run]:
            raise ConfigError(f"claims: there is no metric {self.metric!r}; {nearest(self.metric, runs[self.run])}")
        return True


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and the differences that would show it.

    Args:
        claim: in a sentence.
        source: authors, year, arXiv id.
        differences: all of them must hold.
        guards: the premises that the comparison's numbers must meet for the claim to be testable: "teacher",
            "overconfidence" and "control", as far as the comparison says what they ask for.

    Raises:
        ConfigError: a guard that there isn't.
    """

    claim: str
    source: str
    differences: tuple[Difference, ...] = field(default=())
    guards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := [guard for guard in self.guards if guard not in GUARDS]:
            raise ConfigError(f"claims: there is no guard {unknown[0]!r}; {nearest(unknown[0], GUARDS)}")

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> "Claim":
        """A claim of a configuration.

        Raises:
            ConfigError: a key that is missing or that there isn't.
        """
        try:
            differences = tuple(Difference(**difference) for difference in node["differences"])
            guards = tuple(map(str, node.get("guards") or ()))
            return cls(str(node["claim"]), str(node["source"]), differences, guards)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"claims: {error}; a claim has claim, source and differences.") from None


@dataclass(frozen=True)
class Finding:
    """The finding on a claimed difference.

    Attributes:
        difference: it.
        interval: its mean over the seeds, and the interval at the level of the test.
        deviation: the standard deviation of the differences.
        seeds: how many there were.
        p: Holm's p-value over all claims of the experiment, against a difference of 0 (or of the margin, where the
            claim is one).
        verdict: on this difference alone.
    """

    difference: Difference
    interval: SeedInterval
    deviation: float
    seeds: int
    p: float
    verdict: Verdict


def findings(
    claims: Sequence[Claim], values: Values, margins: Mapping[str, float], level: float = LEVEL
) -> list[list[Finding]]:
    """The findings on all differences of all claims, except differences whose runs were not compared.

    Args:
        claims: of one comparison; Holm's correction is over all their differences.
        values: the numbers.
        margins: by metric, the smallest difference that would matter.
        level: below which a p-value rejects.

    Raises:
        ConfigError: a claim about a metric without a margin.

    Example:
        >>> values = {"": {"kd": {"accuracy": [0.9, 0.92, 0.91]}, "ce": {"accuracy": [0.8, 0.83, 0.81]}}}
        >>> claim = Claim("KD is better.", "us", (Difference("kd", "ce", "accuracy", "higher"),))
        >>> findings([claim], values, {"accuracy": 0.02})[0][0].verdict.word
        'reproduced'
    """
    tested = [claim for claim in claims if all(difference.is_about(values) for difference in claim.differences)]
    differences = [difference for claim in tested for difference in claim.differences]
    gains = [difference.gains(values) for difference in differences]
    # A claimed margin is one already.
    least = [0.0 if one.is_margin else _margin(margins, one.metric) for one in differences]
    tests = [margin_tests(own, margin) for own, margin in zip(gains, least, strict=True)]
    corrected = map(PValues, holm([one.zero for one in tests]), holm([one.margin for one in tests]))
    found = []
    for difference, own, margin, p_values in zip(differences, gains, least, corrected, strict=True):
        paired = difference.paired(values)
        finite = len(paired) > 1 and all(map(math.isfinite, paired))
        deviation = statistics.stdev(paired) if finite else math.nan
        interval, verdict = seed_interval(paired, 1 - level), judge(own, margin, p_values, level, len(gains))
        found.append(Finding(difference, interval, deviation, len(paired), p_values.zero, verdict))
    ordered = iter(found)
    return [[next(ordered) for _ in claim.differences] if claim in tested else [] for claim in claims]


def _margin(margins: Mapping[str, float], metric: str) -> float:
    if metric not in margins:
        raise ConfigError(
            f"claims: there is no margin for {metric}; say beforehand which difference would matter, as in "
            f"+margins.{metric}=0.02."
        )
    return margins[metric]
