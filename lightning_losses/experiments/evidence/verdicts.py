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
RULE = """\
- **reproduced**: the difference in the claimed direction is above 0; “small, below the margin” if it is also below \
the margin;
- **refuted**: this difference is below the margin; “the opposite shows” if it is even below 0;
- **inconclusive**: neither shows; with the number of seeds that would most likely settle it (80% power, at the \
scatter and the mean that were found, tested as strictly as the smallest p-value of the page);
- **not testable here**: a guard fails: the teacher or the baseline does not meet the premise of the claim, a run \
diverged, or a tuned value lies at an edge of what was tried.

A margin is the smallest difference of a metric that would matter, stated beforehand. A seed stands for its own data, \
teacher, first weights and order of samples; runs are paired by seed. A paired t test decides on each difference, \
after Holm's correction for all differences that the claims of a page are about."""
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
        sentence: what the numbers say of the premise.
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
    if not all(map(math.isfinite, gains)):
        return Verdict(
            "not testable here", "a run broke or diverged on some seeds, so that their difference is unknown"
        )
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
        >>> str(combine([clear], [Guard("3 of 40 runs diverged", False)]))
        'not testable here: 3 of 40 runs diverged'
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
    return _guard_gap("the teacher", gap, f"accurate than {name}", least)


def guard_overconfidence(baseline: Sequence[float], name: str, least: float) -> Guard:
    """Whether the baseline's mean confidence exceeds its accuracy by at least this much."""
    return _guard_gap(name, _mean(baseline), "confident than accurate", least)


def _guard_gap(name: str, gap: float, words: str, least: float) -> Guard:
    if math.isnan(gap):
        return Guard(f"whether {name} is more {words} was not measured", False)
    if gap >= least:
        return Guard(f"{name} is {100 * gap:.1f} points more {words} ({100 * least:g} needed)", True)
    found = f"only {100 * gap:.1f} points more" if gap > 0 else f"{-100 * gap:.1f} points less"
    return Guard(f"{name} is {found} {words}; {100 * least:g} {'' if gap > 0 else 'points more '}are needed", False)


def guard_control(gains: Sequence[float], effect: str, level: float = 0.05) -> Guard:
    """Whether the positive control, a known effect, shows."""
    holds = paired_t_test(gains) < level and _mean(gains) > 0
    return Guard(f"the positive control {'shows' if holds else 'does not show'}: {effect}", holds)


def guard_ended(losses: Sequence[Sequence[float]]) -> Guard:
    """Whether every run ended with finite numbers."""
    lost, all_runs = sum(not math.isfinite(loss) for run in losses for loss in run), sum(map(len, losses))
    return Guard(f"{lost} of {all_runs} runs diverged" if lost else f"no run of {all_runs} diverged", lost == 0)


def guard_interior(at_edge: Sequence[str]) -> Guard:
    """Whether no run's tuned values lie at an edge of the tried values.

    Args:
        at_edge: the names of the runs with such values.
    """
    whose = f"a tuned value of {' and of '.join(at_edge)}" if at_edge else "no tuned value"
    return Guard(f"{whose} lies at an edge of what was tried", not at_edge)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values and all(map(math.isfinite, values)) else math.nan
