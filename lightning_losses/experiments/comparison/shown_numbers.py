"""How the numbers of a comparison are shown: their names, units and decimals, intervals, and what a claim came to."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_losses.experiments.evidence.claims import Finding
from lightning_losses.experiments.evidence.seed_interval import SeedInterval


class Metric(NamedTuple):
    """How a number is shown: its name and unit, what it is multiplied by, and with how many decimals."""

    name: str
    factor: float
    digits: int


# Of the test logits, by `calibration_summary`.
SCORES = ("accuracy", "nll", "brier", "ece", "adaptive_ece", "classwise_ece", "aurc")
_SHOWN = {
    "accuracy": Metric("accuracy, %", 100, 2),
    "nll": Metric("NLL", 1, 3),
    "brier": Metric("Brier", 1, 3),
    "ece": Metric("ECE, %", 100, 2),
    "adaptive_ece": Metric("adaptive ECE, %", 100, 2),
    "classwise_ece": Metric("classwise ECE, %", 100, 2),
    "aurc": Metric("AURC × 1000", 1000, 1),
    "temperature": Metric("temperature", 1, 2),
    "seconds": Metric("seconds", 1, 2),
    "memory": Metric("step's memory, MB", 1e-6, 2),
    "parameters": Metric("parameters", 1, 0),
    "sensitivity": Metric("LR sensitivity", 1, 3),
    "lowest_nll": Metric("lowest NLL", 1, 3),
}
COSTS = ("seconds", "memory", "parameters")
METRICS = (*SCORES, *(f"calibrated_{name}" for name in SCORES[1:]), "temperature", *COSTS)


def shown(metric: str) -> Metric:
    """How a number is shown.

    Example:
        >>> shown("calibrated_ece").name
        'ECE, % (calibrated)'
    """
    plain = _SHOWN[metric.removeprefix("calibrated_")]
    return plain._replace(name=f"{plain.name} (calibrated)") if metric.startswith("calibrated_") else plain


def describe(finding: Finding) -> str:
    """What was found of a claimed difference, in a line.

    Example:
        >>> from lightning_losses.experiments.evidence.claims import Difference
        >>> describe(Finding(Difference("kd", "ce", "accuracy", "higher", "60 rows"), 0.05, 0.02, 0.004, True))
        'holds: 60 rows: accuracy, % of kd higher than that of ce: found +5.00 ± 2.00, p = 0.004'
    """
    difference, name = finding.difference, shown(finding.difference.metric).name
    factor = shown(difference.metric).factor
    claimed = (
        f"{difference.shows} than that of {difference.than}"
        if isinstance(difference.shows, str)
        else f"no worse than that of {difference.than} by more than {factor * difference.shows:g}"
    )
    found = spread(SeedInterval(finding.mean, finding.half), difference.metric, signed=True)
    where = f"{difference.setting}: " if difference.setting else ""
    p = "" if math.isnan(finding.p) else f", {p_value(finding.p)}"
    holds = "holds" if finding.holds else "does not hold"
    return f"{holds}: {where}{name} of {difference.run} {claimed}: found {found}{p}"


def spread(interval: Sequence[float], metric: str, *, signed: bool = False) -> str:
    """A mean and half its interval, in the metric's unit; what is not known is a dash."""
    mean, half = (shown(metric).factor * number for number in interval)
    digits = shown(metric).digits
    if math.isnan(mean):
        return "–"
    text = f"{mean:+.{digits}f}" if signed else f"{mean:.{digits}f}"
    return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"


def p_value(p: float) -> str:
    """A p-value in a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
