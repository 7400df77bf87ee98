"""Verdicts: a table of cases, the guards, and what two planned looks make of them."""

import dataclasses
import math
import statistics

import matplotlib as mpl
import pytest

from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.shown_numbers import METRICS
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.evidence.claims import Claim, Difference, findings
from lightning_losses.experiments.evidence.result_pages import _helped, _ordered, _rounded
from lightning_losses.experiments.evidence.seed_interval import SeedInterval, seed_interval
from lightning_losses.experiments.evidence.significance import detectable, seeds_to_show
from lightning_losses.experiments.evidence.verdicts import (
    Guard,
    PValues,
    Verdict,
    combine,
    guard_control,
    guard_ended,
    guard_interior,
    guard_overconfidence,
    guard_teacher,
    judge,
    margin_tests,
)
from lightning_losses.plots.style import COLORS

# Ten numbers of mean 0 and standard deviation 0.965. The seeds below are those that scipy's quantiles give.
SCATTER = [-1.4936, -1.1203, -0.8402, -0.4668, -0.0934, 0.2801, 0.5602, 0.7469, 1.0270, 1.4001]


@pytest.mark.parametrize(
    ("mean", "deviation", "verdict"),
    [
        (5.0, 1.0, "reproduced"),
        (1.0, 0.5, "reproduced: small, below the margin"),
        (0.0, 0.5, "refuted: below the margin"),
        (-3.0, 1.0, "refuted: the opposite shows"),
        (-3.0, 9.0, "inconclusive: 26 seeds would settle it"),
        (1.5, 3.0, "inconclusive: 32 seeds would settle it"),
        (3.0, 5.0, "inconclusive: 23 seeds would settle it"),
        # Not below the margin, and not above 0, by little.
        (1.0, 1.6, "inconclusive: 21 seeds would settle it"),
    ],
)
def test_ten_seeds_and_a_margin_of_two(mean, deviation, verdict):
    gains = [mean + deviation * one for one in SCATTER]
    assert str(judge(gains, 2.0, margin_tests(gains, 2.0))) == verdict


@pytest.mark.parametrize(
    ("gains", "remark"),
    [
        ([3.0, 4.0], "fewer than three seeds, or the same difference on all of them"),
        ([3.0, 3.0, 3.0], "fewer than three seeds, or the same difference on all of them"),
        ([3.0, 4.0, 5.0, math.nan], "a run broke or diverged on some seeds, so that their difference is unknown"),
    ],
)
def test_what_has_no_scatter_decides_nothing(gains, remark):
    assert judge(gains, 2.0, margin_tests(gains, 2.0)) == Verdict("not testable here", remark)


def test_the_seeds_that_would_settle_one_of_many_are_more():
    gains = [1.5 + 3.0 * one for one in SCATTER]
    assert [judge(gains, 2.0, margin_tests(gains, 2.0), differences=many).seeds for many in (1, 18)] == [32, 59]
    # Those that there are did not: Holm's p-value is above the level where the test's own is below it.
    gains = [1.1 + 1.1 * one for one in SCATTER]
    assert judge(gains, 2.0, PValues(0.2, 1.0)).seeds == 11


def test_the_seeds_that_would_settle_it_are_those_that_would_show_the_nearer_answer():
    for seeds in (5, 12, 40):
        values = [(-1.0) ** place for place in range(seeds)]
        # The smallest number of seeds that shows what these would, but for rounding.
        assert seeds_to_show(detectable(values) * (1 + 1e-9), statistics.stdev(values)) == seeds
    assert str(judge([0.0, 0.0, 1e3, -1e3], 1e-6, margin_tests([0.0, 0.0, 1e3, -1e3], 1e-6))) == (
        "inconclusive: more than 10,000 seeds would settle it"
    )


def test_a_claim_of_several_differences_is_as_its_weakest():
    words = [Verdict("reproduced"), Verdict("inconclusive", "9 seeds would settle it", 9),
             Verdict("inconclusive", "12 seeds would settle it", 12), Verdict("refuted", "below the margin"),
             Verdict("not testable here", "fewer")]  # fmt: skip
    assert [combine(words[:count]) for count in range(1, 6)] == [words[0], words[1], words[2], words[3], words[4]]
    failed = Guard("a premise: missed", False)
    assert str(combine(words[:1], [Guard("another", True), failed])) == "not testable here: a premise: missed"
    assert combine([]) == Verdict("not testable here", "its runs were not compared")


@pytest.mark.parametrize(
    ("guard", "holds", "sentence"),
    [
        (guard_teacher([0.9, 0.8], [0.6, 0.7], "ce", 0.1), True,
         "the teacher is 20.0 points more accurate than ce (10 needed)"),
        (guard_teacher([0.9, 0.8], [0.8, 0.8], "ce", 0.1), False,
         "the teacher is only 5.0 points more accurate than ce; 10 are needed"),
        (guard_teacher([math.nan], [0.8], "ce", 0.1), False,
         "whether the teacher is more accurate than ce was not measured"),
        (guard_overconfidence([0.2, 0.1], "ce", 0.1), True,
         "ce is 15.0 points more confident than accurate (10 needed)"),
        (guard_overconfidence([-0.2, -0.1], "ce", 0.1), False,
         "ce is 15.0 points less confident than accurate; 10 points more are needed"),
        (guard_control([0.1, 0.2, 0.15], "higher kd"), True, "the positive control shows: higher kd"),
        (guard_control([-0.1, -0.2, -0.15], "higher kd"), False, "the positive control does not show: higher kd"),
        (guard_control([0.1, math.nan, 0.15], "higher kd"), False, "the positive control does not show: higher kd"),
        (guard_ended([[1.0, 2.0], [1.0, 1.0]]), True, "no run of 4 diverged"),
        (guard_ended([[1.0, math.nan], [1.0, 1.0]]), False, "1 of 4 runs diverged"),
        (guard_interior([]), True, "no tuned value lies at an edge of what was tried"),
        (guard_interior(["kd", "ce"]), False, "a tuned value of kd and of ce lies at an edge of what was tried"),
    ],
)  # fmt: skip
def test_a_guard_says_what_it_found(guard, holds, sentence):
    assert guard == Guard(sentence, holds)


def compared(**gains):
    """By run, the numbers whose differences from those of ce are so many points of accuracy."""
    seeds = len(next(iter(gains.values())))
    return {"": {"ce": {"accuracy": [0.5] * seeds, "ece": [0.3] * seeds},
                 **{run: {"accuracy": [0.5 + gain / 100 for gain in own], "ece": [0.3 - gain / 100 for gain in own]}
                    for run, own in gains.items()}}}  # fmt: skip


def claim(run, metric="accuracy", shows="higher"):
    return Claim("It is so.", "us, 2026", (Difference(run, "ce", metric, shows),))


def test_differences_are_turned_to_the_claimed_direction_and_corrected():
    values = compared(kd=[5.0 + one for one in SCATTER], nkd=[1.5 + 2 * one for one in SCATTER])
    margins = {"accuracy": 0.02, "ece": 0.03}
    claims = [claim("kd"), claim("kd", "ece", "lower"), claim("kd", "ece", "higher"), claim("kd", shows=0.01)]
    found = [str(one.verdict) for (one,) in findings(claims, values, margins)]
    assert found == ["reproduced", "reproduced", "refuted: the opposite shows", "reproduced"]
    assert findings([claim("nkd", shows=0.01)], values, margins)[0][0].verdict.word == "reproduced"
    # Alone it shows; among five claims it does not.
    alone, among = (findings([claim("nkd")] * count, values, margins)[0][0] for count in (1, 5))
    assert alone.verdict.word == "reproduced" and among.verdict.word == "inconclusive"
    assert alone.p < 0.05 < among.p and among.seeds == 10
    wide = findings([claim("kd")], values, margins, 0.029)[0][0].interval
    assert wide == pytest.approx(seed_interval([0.05 + one / 100 for one in SCATTER], 0.971))
    with pytest.raises(ConfigError, match="claims: there is no margin for accuracy; say beforehand"):
        findings(claims, values, {})
    with pytest.raises(ConfigError, match="claims: there is no guard 'taecher'; did you mean teacher"):
        Claim("a", "b", (), ("taecher",))


@pytest.mark.parametrize(
    ("metric", "better"), [("recall_at_1", 1), ("mrr", 1), ("parse_rate", 1), ("nll", -1), ("membership_auc", -1)]
)
def test_a_margin_is_on_the_worse_side_of_the_metric(metric, better):
    def verdict(gain):
        values = {
            "": {run: {metric: [0.5 + by + one / 1000 for one in SCATTER]} for run, by in (("ce", 0.0), ("kd", gain))}
        }
        values[""]["kd"][metric] = [
            one + change / 1000 for one, change in zip(values[""]["kd"][metric], SCATTER, strict=True)
        ]
        return findings([claim("kd", metric, 0.01)], values, {})[0][0].verdict.word

    assert verdict(better * 0.2) == verdict(-better * 0.005) == "reproduced" and verdict(-better * 0.2) == "refuted"


def report(values, claims, **further):
    runs = {run: {**metrics, "nll": [1.0] * len(metrics["accuracy"])} for run, metrics in values[""].items()}
    return Comparison(title="t", command="c", settings={"": ""}, runs=dict.fromkeys(runs, ""), baseline="ce",
                      seeds=tuple(range(len(runs["ce"]["nll"]))), values={"": runs}, columns=("accuracy",),
                      claims=tuple(claims), margins={"accuracy": 0.02}, **further)  # fmt: skip


def test_a_claim_that_the_first_look_decides_is_not_judged_again():
    early = [1.0 + 0.3 * one for one in SCATTER]
    late = [*early, *[-9.0 + one for one in SCATTER]]
    looks = {"looks": (10, 20)}
    (first,) = report(compared(kd=early), [claim("kd")], **looks).judged()
    (both,) = report(compared(kd=late), [claim("kd")], **looks).judged()
    (without,) = report(compared(kd=late), [claim("kd")]).judged()
    assert first.verdict == both.verdict and both.found[0].seeds == 10 and both.verdict.word == "reproduced"
    assert without.found[0].seeds == 20 and without.verdict == Verdict("refuted", "the opposite shows")
    undecided = [0.5 + 2 * one for one in SCATTER]
    (second,) = report(compared(kd=[*undecided, *early]), [claim("kd")], **looks).judged()
    assert second.found[0].seeds == 20


def test_guards_are_those_that_the_claim_and_its_runs_ask_for():
    values = compared(kd=[5.0 + one for one in SCATTER])
    for run, accuracy in (("ce", math.nan), ("kd", 0.9)):
        values[""][run].update(teacher_accuracy=[accuracy] * 10, overconfidence=[0.05] * 10)
    asked = {"teacher": 0.1, "overconfidence": 0.1, "control": {"run": "kd", "than": "ce", "metric": "accuracy",
                                                                "shows": "higher"}}  # fmt: skip
    claims = [dataclasses.replace(claim("kd"), guards=guards)
              for guards in ((), ("teacher", "control"), ("overconfidence",))]  # fmt: skip
    tuned = {"": {run: {"at_edge": run == "kd"} for run in ("ce", "kd")}}
    plain, distilled, calibrated = report(values, claims, guards=asked).judged()
    assert [str(one.verdict) for one in (plain, distilled)] == ["reproduced", "reproduced"]
    assert [guard.sentence for guard in distilled.guards] == [
        "no run of 20 diverged", "the teacher is 40.0 points more accurate than ce (10 needed)",
        "the positive control shows: higher accuracy of kd than of ce",
    ]  # fmt: skip
    assert (
        str(calibrated.verdict)
        == "not testable here: ce is only 5.0 points more confident than accurate; 10 are needed"
    )
    assert {str(one.verdict) for one in report(values, claims[:2], guards=asked, tuned=tuned).judged()} == {
        "not testable here: a tuned value of kd lies at an edge of what was tried"
    }


@pytest.mark.parametrize(("metric", "better"), [("accuracy", "kd"), ("overconfidence", "other"), ("nll", "other")])
def test_the_best_is_first_by_the_metric_and_an_unknown_one_last(metric, better):
    gains = {"kd": [5.0 + one for one in SCATTER], "other": [-5.0 + one for one in SCATTER]}
    values = compared(broken=[math.nan, *SCATTER[1:]], **gains)
    runs = {run: dict.fromkeys(METRICS, of["accuracy"]) for run, of in values[""].items()}
    margins = dict.fromkeys(METRICS, 0.02)
    comparison = dataclasses.replace(report(values, [claim("kd", metric)]), values={"": runs}, margins=margins)
    assert [run for run, _ in _ordered(comparison, "")] == [better, *({"kd", "other"} - {better}), "broken"]
    (axis,) = comparison._figures()["effects.png"]().axes
    # Of them the better one is on top, and in the first colour.
    assert axis.get_yticklabels()[0].get_text() == better
    assert mpl.colors.to_hex(axis.containers[0].lines[0].get_color()).upper() == COLORS[0]


def test_what_beats_the_baseline_is_the_best_of_the_runs_that_differ_from_it():
    values = compared(kd=[5.0 + one for one in SCATTER], lucky=[9.0 + 90 * one for one in SCATTER])
    comparison = report(values, [claim("kd")])
    assert next(run for run, _ in _ordered(comparison, "")) == "lucky"
    assert _helped(comparison).startswith("against `ce`: `kd` +")


@pytest.mark.parametrize(
    ("effect", "text"),
    [((0.05, 0.04, 0.06), "+5.0 ± 1.0"), ((0.05, math.nan, math.nan), "+5.0"), ((math.nan,) * 3, "–")],
)
def test_an_effect_without_an_interval_has_none_in_its_sentence(effect, text):
    assert _rounded(SeedInterval(*(100 * end for end in effect)), "accuracy") == text


def test_of_two_teachers_the_worse_one_must_be_better():
    values = compared(kd=[5.0 + one for one in SCATTER], other=[9.0 + one for one in SCATTER])
    for run, accuracy in (("ce", math.nan), ("kd", 0.9), ("other", 0.55)):
        values[""][run].update(teacher_accuracy=[accuracy] * 10)
    than_kd = Claim("It is so.", "us, 2026", (Difference("kd", "other", "accuracy", "lower"),), ("teacher",))
    (one,) = report(values, [than_kd], guards={"teacher": 0.1}).judged()
    assert str(one.verdict) == "not testable here: the teacher is only 5.0 points more accurate than ce; 10 are needed"
