"""Claims that an experiment tests by itself, with their verdicts as its page shows them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lightning_losses.experiments.comparison.shown_numbers import describe
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.claims import Claim, findings
from lightning_losses.experiments.evidence.verdicts import Verdict, combine


class JudgedClaim(NamedTuple):
    """A claim with its source, the verdict on it, and a line for each of its differences."""

    sentence: str
    verdict: Verdict
    lines: list[str]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.verdict}: {self.sentence}", *self.lines])

    def markdown(self) -> str:
        """An item of a list, with its differences below."""
        return "\n  - ".join([f"- **{self.verdict}.** {self.sentence}", *self.lines])

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "verdict": self.verdict._asdict()}


def claims_of(
    settings: DictConfig, runs: Iterable[str], metrics: Iterable[str]
) -> tuple[list[Claim], dict[str, float]]:
    """The claims of an experiment's settings and which differences would matter.

    Args:
        settings: with `claims` and `margins`.
        runs: the names that claims may compare.
        metrics: what they may compare of them.

    Raises:
        ConfigError: a claim about another run or metric.
    """
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    claims = [Claim.read(node) for node in plain["claims"]]
    known, measured = list(runs), list(metrics)
    for difference in (difference for claim in claims for difference in claim.differences):
        # Of another run nothing would be found, and nothing said.
        unknown = [run for run in (difference.run, difference.than) if run not in known]
        if known and unknown:
            raise ConfigError(f"claims: there is no run '{unknown[0]}'; there are {', '.join(known)}.")
    # Any numbers: it says what a claim names and there is none of.
    numbers = {run: {metric: [0.0, 1.0, 2.0] for metric in measured} for run in known}
    findings(claims, {"": numbers}, plain["margins"])
    return claims, plain["margins"]


def judged_claims(
    claims: Sequence[Claim], values: Mapping[str, Mapping[str, Sequence[float]]], margins: Mapping[str, float]
) -> list[JudgedClaim]:
    """The claims with their verdicts.

    Args:
        claims: of one experiment without settings.
        values: by run and metric, a number a seed.
        margins: by metric, the smallest difference that would matter.

    Example:
        >>> from lightning_losses.experiments.evidence.claims import Difference
        >>> values = {"kd": {"accuracy": [0.9, 0.92, 0.91]}, "ce": {"accuracy": [0.8, 0.83, 0.81]}}
        >>> claim = Claim("KD is better.", "us", (Difference("kd", "ce", "accuracy", "higher"),))
        >>> print(judged_claims([claim], values, {"accuracy": 0.02})[0])
        reproduced: KD is better. (us)
          accuracy of kd minus ce: +9.67 ± 1.43 points (claimed: above 0), SD 0.58, n = 3, p = 0.001
    """
    found = findings(claims, {"": {name: dict(numbers) for name, numbers in values.items()}}, margins)
    return [
        JudgedClaim(
            f"{claim.claim} ({claim.source})", combine([one.verdict for one in several]), list(map(describe, several))
        )
        for claim, several in zip(claims, found, strict=True)
    ]
