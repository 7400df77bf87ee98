"""Conformal sets and intervals: their coverage by simulation, and what they do at the edges."""

import itertools
import math
import warnings

import pytest
import torch

from lightning_losses.calibrators import (
    APS,
    CQR,
    LAC,
    RAPS,
    Calibrator,
    ConformalSets,
    SplitConformal,
    conformal_p_values,
    conformal_quantile,
    conformal_rank,
)
from lightning_losses.metrics import classwise_coverage, interval_coverage, set_coverage, set_size

DATA_SETS, ROWS, TEST_ROWS, CLASSES, ALPHA = 200, 49, 100, 5, 0.2


def drawn(generator, rows=ROWS):
    """Logits that are wrong by a factor, and classes of the right ones."""
    logits = 2 * torch.randn(rows, CLASSES, generator=generator)
    return 3 * logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def numbers(generator, rows=ROWS):
    """Predictions, spreads that are wrong by a factor, and numbers."""
    prediction, spread = torch.randn(rows, generator=generator), torch.rand(rows, generator=generator) + 0.2
    return prediction, 0.3 * spread, prediction + spread * torch.randn(rows, generator=generator)


def classified(make, generator):
    fitted = make().fit(*drawn(generator))
    logits, target = drawn(generator, TEST_ROWS)
    return set_coverage(fitted(logits), target).item()


def split(generator, normalised):
    prediction, spread, target = numbers(generator)
    fitted = SplitConformal(ALPHA, normalised).fit(prediction, target, spread if normalised else None)
    prediction, spread, target = numbers(generator, TEST_ROWS)
    return interval_coverage(fitted(prediction, spread if normalised else None), target).item()


def quantiles(generator):
    prediction, spread, target = numbers(generator)
    fitted = CQR(ALPHA).fit(prediction - spread, prediction + spread, target)
    prediction, spread, target = numbers(generator, TEST_ROWS)
    return interval_coverage(fitted(prediction - spread, prediction + spread), target).item()


METHODS = {
    "lac": lambda g: classified(lambda: LAC(ALPHA), g),
    "aps": lambda g: classified(lambda: APS(ALPHA), g),
    "aps randomised": lambda g: classified(lambda: APS(ALPHA, randomised=True, seed=int(1e6 * torch.rand(1))), g),
    "raps randomised": lambda g: classified(lambda: RAPS(ALPHA, randomised=True, seed=int(1e6 * torch.rand(1))), g),
    "split": lambda g: split(g, False),
    "split normalised": lambda g: split(g, True),
    "cqr": quantiles,
}


@pytest.mark.parametrize("method", METHODS)
def test_coverage_over_data_sets_is_what_was_asked_for(method):
    """Of each data set it is Beta(k, n + 1 - k), seen through the noise of its test rows."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    found = torch.tensor([METHODS[method](generator) for _ in range(DATA_SETS)])
    rank = conformal_rank(ROWS, ALPHA)
    mean = rank / (ROWS + 1)
    spread = mean * (1 - mean) / (ROWS + 2)
    deviation = math.sqrt(spread + (mean * (1 - mean) - spread) / TEST_ROWS)
    # Without u, scores of the last label are equal, which only adds coverage.
    above = 0.02 if method == "aps" else 0.0
    assert -4 * deviation / math.sqrt(DATA_SETS) < found.mean().item() - mean
    assert found.mean().item() - mean < 4 * deviation / math.sqrt(DATA_SETS) + above
    assert found.std().item() == pytest.approx(deviation, rel=0.25)


def test_coverage_holds_for_each_class():
    generator = torch.Generator().manual_seed(0)
    shifted = torch.tensor([3.0, 0.0, 0.0, 0.0, -1.0])
    fit, test = drawn(generator, 4000), drawn(generator, 4000)
    marginal, each = (
        classwise_coverage(LAC(ALPHA, classwise=classwise).fit(fit[0] + shifted, fit[1])(test[0] + shifted), test[1])
        for classwise in (False, True)
    )
    assert bool((each - (1 - ALPHA)).abs().max() < 0.06) and marginal.min() < 0.74


def test_adaptive_sets_are_larger_and_penalised_ones_smaller():
    generator = torch.Generator().manual_seed(0)
    fit, (logits, target) = drawn(generator, 2000), drawn(generator, 2000)
    sizes = [set_size(make.fit(*fit)(logits / 3), target) for make in (LAC(ALPHA), APS(ALPHA))]
    assert sizes[0] < sizes[1]
    fitted = RAPS(ALPHA, penalty=10.0, k_reg=2).fit(*fit)(logits)
    assert int(fitted.sum(dim=-1).max()) <= 3


def test_the_rank_is_exact_where_floating_point_is_not():
    for samples, percent in itertools.product((9, 19, 24, 99, 199, 999), range(1, 100)):
        # In whole numbers.
        assert conformal_rank(samples, percent / 100) == max(-(-(samples + 1) * (100 - percent) // 100), 1)
    scores = torch.arange(1.0, 100.0)
    assert conformal_quantile(scores, 0.45).item() == 55 and math.ceil(100 * (1 - 0.45)) == 56
    assert LAC(0.45).fit(torch.randn(99, 3), torch.randint(0, 3, (99,))).threshold().shape == (1,)


def test_one_quantile_for_groups_of_any_size():
    groups = [torch.rand(count) for count in (3, 9, 40)]
    filled = torch.stack([torch.cat([g, torch.full((40 - len(g),), torch.inf)]) for g in groups])
    for alpha in (0.05, 0.1, 0.45):
        expected = torch.stack([conformal_quantile(group, alpha) for group in groups])
        assert torch.equal(conformal_quantile(filled, alpha), expected)


@pytest.mark.parametrize(
    "make", [LAC, lambda a: APS(a), lambda a: LAC(a, classwise=True)], ids=["lac", "aps", "classwise"]
)
def test_the_sets_are_the_labels_with_a_p_value_above_alpha(make):
    generator = torch.Generator().manual_seed(0)
    fitted = make(ALPHA).fit(*drawn(generator, 100))
    logits, _ = drawn(generator)
    for alpha in (0.05, 0.2, 0.5):
        assert torch.equal(fitted(logits, alpha), fitted.p_values(logits) > alpha)


def test_smoothed_p_values_are_uniform():
    drawn = torch.randint(0, 4, (2000, 10), generator=torch.Generator().manual_seed(0)).float()
    found = torch.stack([conformal_p_values(some[:9], some[9:], torch.rand(1)) for some in drawn])
    assert found.mean().item() == pytest.approx(0.5, abs=0.03) and found.var().item() == pytest.approx(1 / 12, abs=0.01)


def test_p_values_of_half_precision_and_of_nan():
    calibration = torch.arange(70_000) / 70_000
    scores = torch.tensor([0.0, 0.25, torch.nan])
    for dtype in (torch.float16, torch.bfloat16):
        p_values = conformal_p_values(calibration.to(dtype), scores.to(dtype))
        assert p_values.dtype == torch.float32 and p_values[2].isnan()
        # A score is within half a unit of rounding.
        torch.testing.assert_close(p_values[:2], 1 - scores[:2], rtol=0, atol=torch.finfo(dtype).eps)


def test_scores_that_are_minus_infinite_count():
    scores = torch.cat([torch.full((50,), -torch.inf), torch.arange(49.0)])
    assert conformal_quantile(scores, 0.1).item() == conformal_quantile(scores.clamp(min=-1.0), 0.1).item() == 39


def test_too_few_rows_give_whole_sets_and_a_reason():
    logits, target = drawn(torch.Generator().manual_seed(0), 8)
    with pytest.warns(UserWarning) as told:
        fitted = LAC(0.1).fit(logits, target)
    assert (
        str(told[0].message)
        == "LAC: for alpha=0.1 at least 9 rows are needed and 8 came; every set will hold all classes."
    )
    assert told[0].filename == __file__
    assert bool(fitted(logits).all())
    target = torch.tensor([0] * 30 + [1] * 5 + [2] * 30)
    with pytest.warns(UserWarning) as told:
        fitted = APS(0.1, classwise=True).fit(torch.randn(65, 4), target)
    assert str(told[0].message) == (
        "APS: for alpha=0.1 each class needs at least 9 rows; fewer came of 1, 3, which will be in every set."
    )
    assert bool(fitted(torch.randn(20, 4))[:, [1, 3]].all()) and torch.isfinite(fitted.threshold()).tolist() == [
        True, False, True, False,
    ]  # fmt: skip
    with pytest.warns(UserWarning) as told:
        intervals = SplitConformal(0.1).fit(torch.zeros(3), torch.ones(3))
    assert str(told[0].message) == (
        "SplitConformal: for alpha=0.1 3 numbers came, and at least 9 are needed, so that every interval is infinite."
    )
    assert told[0].filename == __file__
    assert intervals(torch.zeros(1)).tolist() == [[-math.inf, math.inf]]


def test_scores_that_are_equal_are_within():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).repeat(19, 1)
    fitted = LAC(0.1).fit(logits, torch.tensor([0] * 16 + [1] * 3))
    assert fitted(logits[0]).tolist() == [True, True, True]


def test_the_last_label_scores_1_whatever_the_sum_rounds_to():
    p = torch.randn(500, 97, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    assert bool((p.sort(dim=-1, descending=True).values.cumsum(dim=-1)[:, -1] != 1).any())
    assert bool((APS().scores(p).amax(dim=-1) == 1).all())


def test_one_draw_a_row_gives_the_likeliest_classes():
    logits, target = drawn(torch.Generator().manual_seed(0), 200)
    fitted = APS(ALPHA, randomised=True).fit(logits, target)
    sets, order = fitted(logits / 4), logits.argsort(dim=-1, descending=True)
    within = sets.gather(-1, order)
    assert bool((within[:, 1:] <= within[:, :-1]).all()) and not torch.equal(sets, fitted(logits / 4))
    # What the fit drew is drawn for no evaluation.
    assert not torch.equal(fitted.uniforms_of(200), torch.rand(200, 1, generator=torch.Generator().manual_seed(0)))
    again = APS(ALPHA, randomised=True).fit(logits, target)
    assert torch.equal(again.calibration, fitted.calibration)
    drawn_for = torch.rand(200, 1)
    assert torch.equal(fitted(logits, uniforms=drawn_for), again(logits, uniforms=drawn_for))


@pytest.mark.parametrize("make", [lambda: LAC(), lambda: APS(randomised=True, seed=3), lambda: RAPS(0.2, 0.5, 2),
                                  lambda: LAC(classwise=True)], ids=["lac", "aps", "raps", "classwise"])  # fmt: skip
def test_a_file_and_a_state_hold_it(make, tmp_path):
    logits, target = drawn(torch.Generator().manual_seed(0), 200)
    fitted = make().fit(logits, target)
    fitted.save(tmp_path / "sets.safetensors")
    state = make()
    state.load_state_dict(fitted.state_dict())
    uniforms = torch.rand(200, 1)
    for other in (ConformalSets.load(tmp_path / "sets.safetensors"), state, make().fit(logits, target).half()):
        assert type(other) is type(fitted) and other.options == fitted.options
        assert torch.equal(other(logits, uniforms=uniforms), fitted(logits, uniforms=uniforms))
    with pytest.raises(ValueError, match=r"^Calibrator: .* holds '\w+'; give a file that Calibrator.save wrote\.$"):
        Calibrator.load(tmp_path / "sets.safetensors")


def test_intervals_are_saved_too(tmp_path):
    prediction, spread, target = numbers(torch.Generator().manual_seed(0))
    fitted = SplitConformal(ALPHA, normalised=True).fit(prediction, target, spread)
    fitted.save(tmp_path / "intervals.safetensors")
    loaded = SplitConformal.load(tmp_path / "intervals.safetensors")
    assert torch.equal(loaded(prediction, spread), fitted(prediction, spread)) and loaded.normalised


def test_masked_classes_are_in_no_set_and_nan_makes_it_whole():
    logits, target = drawn(torch.Generator().manual_seed(0), 100)
    fitted = APS(0.01).fit(logits, target)
    masked = logits[:3].clone()
    masked[0, 1], masked[1, 0] = -torch.inf, torch.nan
    assert fitted(masked).tolist()[:2] == [[True, False, True, True, True], [True] * 5]
    # Most labels of the fit were the last of their rows, as a masked class is of its.
    p_values = APS(0.01).fit(logits, logits.argmin(dim=-1)).p_values(masked)
    assert p_values[0, 1] == 0 and p_values[1].isnan().all() and p_values[2].max() == 1
    assert APS(0.6).fit(logits, logits.argmax(dim=-1))(masked)[1].all()
    tokens = logits.reshape(4, 25, CLASSES)
    assert torch.equal(fitted(tokens).reshape(100, CLASSES), fitted(logits))


def test_a_band_that_is_too_wide_shrinks_to_its_middle_at_most():
    fitted = CQR(ALPHA).fit(torch.full((50,), -5.0), torch.full((50,), 5.0), torch.zeros(50))
    assert fitted.threshold().item() == -5
    assert fitted(torch.tensor([-6.0, 3.0]), torch.tensor([6.0, -3.0])).tolist() == [[-1.0, 1.0], [0.0, 0.0]]
    crossed = CQR(ALPHA).fit(torch.full((50,), 5.0), torch.full((50,), -5.0), torch.zeros(50))
    assert torch.equal(crossed.calibration, fitted.calibration)


FIT = (torch.randn(50, 3), torch.randint(0, 3, (50,)))
ZERO = torch.zeros(3)
COLUMN = torch.zeros(3, 1)
REFUSED = {
    "LAC: alpha=1.0 came; give the share that may be missed, above 0 and below 1.": lambda: LAC(1.0),
    "LAC: alpha=0 came; give the share that may be missed, above 0 and below 1.": lambda: LAC().fit(*FIT)(*FIT[:1], 0),
    "APS: it is not fitted; call fit(logits, target) on held-out data, or load a saved one.": lambda: APS()(FIT[0]),
    "CQR: it is not fitted; call fit(..., regression_target) on held-out data, or load a saved one.": lambda: CQR()(
        ZERO, ZERO
    ),
    "LAC: logits of shape [2, 4] came; it was fitted on 3 classes; give [..., 3].": lambda: LAC(
        0.5, classwise=True
    ).fit(*FIT)(torch.zeros(2, 4)),
    "RAPS: penalty=-1.0 came; give a number at least 0.": lambda: RAPS(penalty=-1.0),
    "RAPS: k_reg=1.5 came; give a whole number of at least 1, or 0 for a penalty on the first too.": lambda: RAPS(
        k_reg=1.5
    ),
    "conformal_quantile: scores hold NaN; find the prediction that made it.": lambda: conformal_quantile(
        torch.tensor([torch.nan]), 0.1
    ),
    "conformal_quantile: scores has dtype torch.int64; give a floating-point tensor.": lambda: conformal_quantile(
        torch.arange(9), 0.1
    ),
    "conformal_p_values: calibration holds NaN; find the prediction that made it.": lambda: conformal_p_values(
        ZERO / 0, ZERO
    ),
    "conformal_p_values: uniforms of shape [3, 1] came with scores of shape [3]; give one number for each score.": (
        lambda: conformal_p_values(ZERO, ZERO, COLUMN)
    ),
    "APS: uniforms of shape [3] came with probabilities of shape [3, 3]; give one number for each row, [..., 1], or "
    "for each label, [..., C].": lambda: APS(randomised=True).fit(torch.eye(3), torch.arange(3), uniforms=ZERO),
    "conformal_p_values: scores has dtype torch.int64; give a floating-point tensor.": lambda: conformal_p_values(
        ZERO, torch.arange(9)
    ),
    "SplitConformal: prediction of shape [3, 1] came with regression_target of shape [3]; give prediction of shape "
    "[3].": lambda: SplitConformal().fit(COLUMN, ZERO),
    "SplitConformal: a spread came with normalised=False; give spreads if it is True alone.": lambda: (
        SplitConformal().fit(ZERO, ZERO, ZERO)
    ),
    "SplitConformal: spread holds 0; give numbers above 0.": lambda: SplitConformal(0.5, True).fit(ZERO, ZERO, ZERO),
    "CQR: high of shape [3, 1] came with low of shape [3]; give both the same shape.": lambda: CQR(0.5).fit(
        ZERO, ZERO, ZERO
    )(ZERO, COLUMN),
    "CQR: predictions or targets hold NaN or inf; fit on finite numbers.": lambda: CQR().fit(ZERO, ZERO, ZERO / 0),
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_does_not_fit_is_told(told):
    with warnings.catch_warnings(), pytest.raises(ValueError) as caught:
        warnings.simplefilter("ignore")
        REFUSED[told]()
    assert str(caught.value) == told
