"""What a comparison must show for a claim to count as reproduced, decided by its numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_losses.experiments.config.check_config import ConfigError, nearest
from lightning_losses.experiments.evidence.seed_interval import SeedInterval, seed_interval
from lightning_losses.experiments.evidence.significance import holm, paired_t_test

# By setting, run and metric: a number a seed.
Values = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
LEVEL = 0.05
RULE = (
    "A claim counts as reproduced if every difference that it is about has the claimed sign on average over the seeds "
    "and a paired t test rejects chance at 5%, after Holm's correction for all differences that the experiment's "
    "claims are about; where it says “no worse by more than”, if the worse end of the paired 95% interval is within "
    "that margin. Fewer than three seeds, or differences that are the same on all of them, decide nothing."
)


@dataclass(frozen=True)
class Difference:
    """A claimed difference between two runs.

    Args:
        run: the label of the run that the claim is about.
        than: the label of the run that it is compared with.
        metric: what is compared.
        shows: "higher" or "lower", a difference that must show; or a margin that the run must not be worse by, above 0:
            lower where the metric is accuracy, higher where it is an error.
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
    """What a paper says, and the differences that would show it.

    Args:
        claim: in a sentence.
        source: authors, year, arXiv id.
        differences: all of them must hold.
    """

    claim: str
    source: str
    differences: tuple[Difference, ...] = field(default=())

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> "Claim":
        """A claim of a configuration.

        Raises:
            ConfigError: a key that is missing or that there isn't.
        """
        try:
            differences = tuple(Difference(**difference) for difference in node["differences"])
            return cls(str(node["claim"]), str(node["source"]), differences)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"claims: {error}; a claim has claim, source and differences.") from None


@dataclass(frozen=True)
class Finding:
    """What was found of a claimed difference.

    Attributes:
        difference: it.
        interval: its mean over the seeds, and the 95% interval.
        p: Holm's p-value over all claims of the experiment; NaN for a margin.
        holds: whether it is as claimed.
    """

    difference: Difference
    interval: SeedInterval
    p: float
    holds: bool


def findings(claims: Sequence[Claim], values: Values) -> list[list[Finding]]:
    """What was found of every difference of every claim; of one whose runs were not compared, nothing.

    Example:
        >>> values = {"": {"kd": {"accuracy": [0.9, 0.92, 0.91]}, "ce": {"accuracy": [0.8, 0.83, 0.81]}}}
        >>> claim = Claim("KD is better.", "us", (Difference("kd", "ce", "accuracy", "higher"),))
        >>> findings([claim], values)[0][0].holds
        True
    """
    tested = [claim for claim in claims if all(difference.is_about(values) for difference in claim.differences)]
    differences = [difference for claim in tested for difference in claim.differences]
    paired = [difference.paired(values) for difference in differences]
    p_values = iter(
        holm([paired_t_test(own) for own, one in zip(paired, differences, strict=True) if isinstance(one.shows, str)])
    )
    found = []
    for difference, own in zip(differences, paired, strict=True):
        interval = seed_interval(own)
        if isinstance(difference.shows, str):
            p = next(p_values)
            # NaN is below no level.
            holds = p < LEVEL and (interval.mean > 0) == (difference.shows == "higher")
        else:
            p = math.nan
            worst = -interval.low if difference.metric == "accuracy" else interval.high
            holds = worst <= difference.shows
        found.append(Finding(difference, interval, p, holds))
    ordered = iter(found)
    return [[next(ordered) for _ in claim.differences] if claim in tested else [] for claim in claims]


def verdict(found: Sequence[Finding]) -> str:
    """Reproduced, or not, and of what kind the evidence is.

    Example:
        >>> kd = Difference("kd", "ce", "accuracy", "higher")
        >>> verdict([Finding(kd, SeedInterval(-0.1, -0.11, -0.09), 0.001, False)])
        'not reproduced: the opposite shows'
        >>> verdict([Finding(kd, SeedInterval(0.1, -0.1, 0.3), 0.3, False)]), verdict([])
        ('not reproduced: no such difference shows', 'not tested')
    """
    if not found:
        return "not tested"
    if all(finding.holds for finding in found):
        return "reproduced"
    missing = [finding for finding in found if not finding.holds]
    if any(math.isnan(finding.interval.mean) for finding in missing):
        return "not reproduced: a run is missing or diverged"
    opposite = [finding for finding in missing if isinstance(finding.difference.shows, str) and finding.p < LEVEL]
    if opposite:
        return "not reproduced: the opposite shows"
    if any(math.isnan(finding.interval.low) for finding in missing):
        return "not tested: fewer than three seeds, or differences that are the same on all of them"
    return f"not reproduced: {'no such difference shows' if len(found) == len(missing) else 'only in part'}"
