"""The verdict of paired differences over seeds on a claim: reproduced, refuted, inconclusive, or not testable here."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lightning_losses.experiments.evidence.significance import paired_t_test, seeds_to_show, testable

Word = Literal["reproduced", "refuted", "inconclusive", "not testable here"]

# The two-sided level of a test: of one look at the data, and of each of two planned ones, so that both together err
# with 5% (Pocock, 1977, "Group Sequential Methods in the Design and Analysis of Clinical Trials").
LEVELS = {1: 0.05, 2: 0.029}
RULE = (
    "The unit is a seed, with its own data, teacher, first weights and order of samples; runs are paired by seed."
    " A margin for each metric, the smallest difference that would matter, is stated beforehand. A claim is "
    "**reproduced** if the difference in the claimed direction is above 0, **refuted** if it is below the margin "
    "(“the opposite shows” if it is below 0), each by a paired t test after Holm's correction for all differences"
    " that the claims of a page are about; a reproduced difference that is also below the margin is called small."
    " It is **inconclusive** otherwise, with the number of seeds that would most likely settle it (80% power, at "
    "the scatter and the mean that were found, tested as strictly as the smallest p-value of the page). It is "
    "**not testable here** if one of its guards fails: a teacher or a baseline that doesn't meet the premise of the "
    "claim, a run that diverged, or a tuned value at the end of what was tried."
)
_MANY = 10_000


class Verdict(NamedTuple):
    """A word and a remark.

    Attributes:
        word: one of the four verdicts.
        remark: the guard that failed, how large an effect is, or how many seeds would settle it; "" for nothing.
        seeds: how many seeds would settle an inconclusive one; 0 for the others.
    """

    word: Word
    remark: str = ""
    seeds: int = 0

    def __str__(self) -> str:
        return f"{self.word}: {self.remark}" if self.remark else self.word


@dataclass(frozen=True)
class Guard:
    """A premise of claims, and whether the numbers meet it.

    Attributes:
        sentence: the premise, with the measured value.
        holds: whether the premise holds.
    """

    sentence: str
    holds: bool


class PValues(NamedTuple):
    """The p-values of a claimed difference's two tests: that it is 0, and that it is the margin."""

    zero: float
    margin: float


def margin_tests(gains: Sequence[float], margin: float) -> PValues:
    """Two-sided paired t tests, before Holm's correction; NaN where they are not `testable`.

    Args:
        gains: a difference a seed, above 0 in the claimed direction.
        margin: the smallest difference that would matter, at least 0.
    """
    return PValues(paired_t_test(gains), paired_t_test([gain - margin for gain in gains]))


def judge(gains: Sequence[float], margin: float, tests: PValues, level: float = 0.05, differences: int = 1) -> Verdict:
    """The verdict on one claimed difference whose guards hold.

    Args:
        gains: a difference a seed, above 0 in the claimed direction.
        margin: the smallest difference that would matter, at least 0.
        tests: their p-values, after Holm's correction where there are several claims.
        level: below which a p-value rejects.
        differences: how many Holm's correction is over.

    Example:
        >>> gains = [0.05, 0.06, 0.07, 0.05]
        >>> judge(gains, 0.02, margin_tests(gains, 0.02)).word
        'reproduced'
    """
    if not testable(gains):
        return Verdict("not testable here", "fewer than three seeds, or the same difference on all of them")
    mean = statistics.fmean(gains)
    differs = tests.zero < level
    below_margin = tests.margin < level and mean < margin
    if differs and mean > 0:
        return Verdict("reproduced", "small, below the margin" if below_margin else "")
    if differs and mean < 0:
        return Verdict("refuted", "the opposite shows")
    if below_margin:
        return Verdict("refuted", "below the margin")
    # The nearer of the two answers that these numbers could come to, at the level that Holm's first step asks for.
    seeds = seeds_to_show(max(mean, margin - mean), statistics.stdev(gains), level=level / differences, most=_MANY)
    seeds = max(seeds, len(gains) + 1)
    return Verdict("inconclusive", _seeds(seeds), seeds)


def combine(verdicts: Sequence[Verdict], guards: Sequence[Guard] = ()) -> Verdict:
    """The verdict on a claim that several differences are to show together.

    Args:
        verdicts: on each of them; none where its runs were not compared.
        guards: of the claim.

    Example:
        >>> small, clear = Verdict("reproduced", "small, below the margin"), Verdict("reproduced")
        >>> str(combine([clear, small])), str(combine([clear, Verdict("refuted", "the opposite shows")]))
        ('reproduced: small, below the margin', 'refuted: the opposite shows')
        >>> str(combine([clear], [Guard("the teacher is at least 10 points better: 3.0", False)]))
        'not testable here: the teacher is at least 10 points better: 3.0'
    """
    if not verdicts:
        return Verdict("not testable here", "its runs were not compared")
    if failed := [guard.sentence for guard in guards if not guard.holds]:
        return Verdict("not testable here", "; ".join(failed))
    for word in ("not testable here", "refuted"):
        if several := [one for one in verdicts if one.word == word]:
            return several[0]
    if undecided := [one for one in verdicts if one.word == "inconclusive"]:
        return max(undecided, key=lambda one: one.seeds)
    return Verdict("reproduced", "; ".join(dict.fromkeys(one.remark for one in verdicts if one.remark)))


def _seeds(seeds: int) -> str:
    return f"more than {_MANY:,} seeds would settle it" if seeds > _MANY else f"{seeds} seeds would settle it"


def guard_teacher(teacher: Sequence[float], baseline: Sequence[float], name: str, least: float) -> Guard:
    """Whether the teacher's mean accuracy exceeds the baseline's by this much; not met if it wasn't measured."""
    gap = _mean([one - other for one, other in zip(teacher, baseline, strict=True)])
    found = "not measured" if math.isnan(gap) else f"{100 * gap:.1f}"
    return Guard(f"the teacher is at least {100 * least:g} points more accurate than {name}: {found}", gap >= least)


def guard_overconfidence(baseline: Sequence[float], name: str, least: float) -> Guard:
    """Whether the baseline's mean confidence exceeds its accuracy by at least this much."""
    gap = _mean(baseline)
    found = "not measured" if math.isnan(gap) else f"{100 * gap:+.1f}"
    return Guard(f"{name} is at least {100 * least:g} points more confident than accurate: {found}", gap >= least)


def guard_control(gains: Sequence[float], words: str, level: float = 0.05) -> Guard:
    """Whether the positive control, a known effect, shows."""
    holds = paired_t_test(gains) < level and _mean(gains) > 0
    return Guard(f"{words}: {'it does' if holds else 'it does not'}", holds)


def guard_ended(losses: Sequence[Sequence[float]]) -> Guard:
    """Whether every run ended with finite numbers."""
    lost = sum(not math.isfinite(loss) for run in losses for loss in run)
    return Guard(f"no run diverged: {lost} of {sum(map(len, losses))} did", lost == 0)


def guard_interior(at_edge: Sequence[str]) -> Guard:
    """Whether no run's tuned values lie at an edge of the tried values.

    Args:
        at_edge: the names of the runs with such values.
    """
    found = f"not of {', '.join(at_edge)}" if at_edge else "they do"
    return Guard(f"tuned values lie within what was tried: {found}", not at_edge)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values and all(map(math.isfinite, values)) else math.nan
