import numpy as np
import pytest
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from lightning_losses.experiments.evidence.friedman import friedman, range_quantile

RANDOM = np.random.RandomState(0)


@pytest.mark.parametrize("ties", [False, True], ids=["all differ", "ties"])
@pytest.mark.parametrize("higher", [False, True], ids=["lower", "higher"])
def test_it_is_that_of_scipy(ties, higher):
    table = RANDOM.rand(4, 20) + 0.2 * np.arange(4)[:, None]
    table = table.round(1) if ties else table
    found = friedman(dict(zip("abcd", table.tolist(), strict=True)), higher_is_better=higher)
    expected = friedmanchisquare(*table)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    ranks = rankdata(-table if higher else table, axis=0).mean(axis=1)
    assert list(found.ranks.values()) == pytest.approx(ranks.tolist())


@pytest.mark.parametrize("number", [2, 5, 12])
def test_quantiles_of_the_range_are_those_of_scipy(number):
    # scipy's own, at so many degrees, is right to some digits.
    assert range_quantile(0.95, number) == pytest.approx(studentized_range.ppf(0.95, number, np.inf), rel=1e-5)


def test_what_is_no_number_is_the_worst_and_equal_runs_are_alike():
    found = friedman({"a": [1.0, float("nan")], "b": [2.0, 1.0], "c": [3.0, 2.0]})
    assert found.ranks == {"a": 3.0, "b": 2.0, "c": 1.0}
    same = friedman({run: [1.0, 1.0, 1.0] for run in "abc"})
    assert (same.statistic, same.p) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "came"),
    [
        ({"a": [1], "b": [2], "c": [3]}, "3 runs of [1]"),
        ({"a": [1, 2], "b": [1, 2]}, "2 runs of [2]"),
        ({"a": [1, 2], "b": [1], "c": [1]}, "3 runs of [1, 2]"),
    ],
    ids=["one setting", "two runs", "unlike"],
)
def test_too_few_are_refused(values, came):
    with pytest.raises(ValueError) as raised:
        friedman(values)
    assert str(raised.value) == f"friedman: {came} settings came; give three or more, of two or more settings."
