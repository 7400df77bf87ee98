"""Intervals, paired tests and the correction for many of them, against scipy and against their definitions."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_losses.experiments.evidence.seed_interval import seed_interval
from lightning_losses.experiments.evidence.significance import holm, paired_t_test, student_quantile, student_tails

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30, 1000])
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.3, 0.999, 1.0, 1.001, 2.5, -2.5, 40.0, 1e6])
def test_the_tails_are_those_of_scipy(t, degrees):
    # Relative, also where the probability is 1e-20. (Nearer to 0 than a thousandth scipy loses digits.)
    assert student_tails(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-11)


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 10, 100])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_the_quantiles_are_those_of_scipy(level, degrees):
    assert student_quantile(level, degrees) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=1e-10)


@pytest.mark.parametrize("count", [3, 5, 20])
@pytest.mark.parametrize("shift", [0.0, 0.3, 5.0])
def test_the_test_is_scipys_paired_one(count, shift):
    random = np.random.RandomState(count)
    one, other = random.randn(count) + shift, random.randn(count)
    assert paired_t_test(list(one - other)) == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-9)


@given(st.lists(st.floats(-10, 10).map(lambda number: round(number, 3)), min_size=1, max_size=9))
def test_it_agrees_with_the_interval(differences):
    _, low, high = seed_interval(differences)
    p = paired_t_test(differences)
    assert math.isnan(p) == math.isnan(low) == math.isnan(high)
    assert min(abs(low), abs(high)) < 1e-9 or (p < 0.05) == (low > 0 or high < 0)


# Of those of the last two lines the subtraction's rounding is all that differs.
@pytest.mark.parametrize(
    "differences",
    [[0.5], [0.5, 0.5], [0.5, 0.6], [0.5, 0.6, math.nan], [0.0] * 3, [0.5] * 5, [1e6] * 4,
     [0.93 - 0.83, 0.92 - 0.82, 0.91 - 0.81], [1e-17, 1e-17, 2e-17]],
)  # fmt: skip
def test_fewer_than_three_seeds_or_no_variance_decide_nothing(differences):
    assert math.isnan(paired_t_test(differences))
    assert math.isnan(seed_interval(differences).low) and math.isnan(seed_interval(differences).high)


def test_no_differences_are_refused():
    with pytest.raises(ValueError, match="no differences"):
        paired_t_test([])


def test_flipping_signs_could_not_reject_with_five_seeds():
    # What the choice of the test rests on: the strongest evidence that five differences can give.
    differences = [1.0, 1.1, 0.9, 1.2, 0.8]
    flips = itertools.product((-1, 1), repeat=5)
    means = [abs(statistics.fmean(map(math.prod, zip(flip, differences, strict=True)))) for flip in flips]
    assert statistics.fmean(mean >= max(means) - 1e-12 for mean in means) == 1 / 16
    assert paired_t_test(differences) < 0.001


def test_holm_of_an_example_done_by_hand():
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, 0.04 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    adjusted = holm([0.01, math.nan, 0.5])
    assert adjusted[0] == 0.02 and math.isnan(adjusted[1]) and adjusted[2] == 0.5


@given(P_VALUES, st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - rank) > level:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(p_values)) if p <= level} == rejected


@given(P_VALUES)
def test_holm_lies_between_the_p_values_and_bonferroni(p_values):
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1, len(p_values) * p)


# ---- intervals


def test_the_interval_is_students():
    # By hand: mean 2, deviation 1, √3, and the quantile of two degrees of freedom.
    mean, low, high = seed_interval([1.0, 2.0, 3.0])
    assert mean == 2 and (2 - low, high - 2) == pytest.approx([4.302652729911275 / math.sqrt(3)] * 2)


@pytest.mark.parametrize("count", [3, 5, 10, 11, 101])
def test_the_interval_is_that_of_scipy(count):
    values = [float(number**2) for number in range(count)]
    low, high = stats.t.interval(0.95, count - 1, loc=statistics.fmean(values), scale=stats.sem(values))
    assert seed_interval(values)[1:] == pytest.approx((low, high), rel=1e-9)


@pytest.mark.parametrize(
    ("mean", "least", "most"), [(0.5, 0, 1), (0.97, 0, 1), (0.0, -1, 1), (0.03, 0, math.inf)]
)  # fmt: skip
def test_it_holds_the_truth_as_often_as_it_says_and_nothing_impossible(mean, least, most):
    """200 experiments of three and of five seeds; near a bound most intervals of three would go beyond it."""
    random = np.random.RandomState(0)
    for seeds in (3, 5):
        drawn = mean + 0.03 * random.uniform(-1, 1, (200, seeds))
        intervals = [seed_interval(list(values)).within(least, most) for values in drawn]
        assert all(least <= low <= each <= high <= most for each, low, high in intervals)
        assert 0.9 <= statistics.fmean(low <= mean <= high for _, low, high in intervals) <= 0.99


def test_a_single_value_is_its_own_mean_and_what_diverged_has_none():
    assert seed_interval([3.0]).mean == 3
    assert math.isnan(seed_interval([3.0, math.nan]).mean)
    with pytest.raises(ValueError, match="no values"):
        seed_interval([])
