"""Convex fits reach the optimum that independent solvers find; parameters that made the data are recovered."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression as ScikitIsotonic

from lightning_losses import calibrators as C
from lightning_losses.calibrators import convex
from lightning_losses.calibrators.pool_adjacent_violators import interpolate, pool_adjacent_violators
from tests.calibrators.test_every_calibrator import sample


def solved(objective, start, bounds=None):
    """scipy's optimum of a torch objective."""

    def value_and_gradient(values):
        x = torch.tensor(values, requires_grad=True)
        value = objective(x)
        return value.item(), torch.autograd.grad(value, x)[0].numpy()

    return minimize(
        value_and_gradient,
        np.asarray(start, dtype=np.float64),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-10},
    )


def test_temperature_is_the_optimum():
    logits, target = sample(dtype=torch.float64)
    temperature = C.TemperatureScaling().fit(logits, target).temperature
    best = solved(lambda b: F.cross_entropy(b * logits, target), [1.0])
    assert float(temperature) == pytest.approx(1 / best.x[0], rel=1e-6)
    inverse = (1 / temperature).requires_grad_()
    slope = torch.autograd.grad(F.cross_entropy(inverse * logits, target), inverse)[0]
    # The last step changed the temperature by less than 1e-13 of itself.
    assert abs(float(slope)) < 1e-12


@given(st.floats(0.3, 5.0))
def test_temperature_follows_the_scale_of_the_logits(factor):
    logits, target = sample(dtype=torch.float64)
    plain = C.TemperatureScaling(minimum=1e-3, maximum=1e3).fit(logits, target).temperature
    scaled = C.TemperatureScaling(minimum=1e-3, maximum=1e3).fit(factor * logits, target).temperature
    torch.testing.assert_close(scaled, factor * plain, rtol=1e-10, atol=0)


@pytest.mark.parametrize("true", [0.2, 1.0, 7.0])
def test_a_known_temperature_is_recovered(true):
    logits = 2 * torch.randn(40_000, 5, dtype=torch.float64)
    target = torch.multinomial(logits.softmax(-1), 1)[:, 0]
    # The standard error of T at this size is about half a percent.
    assert float(C.TemperatureScaling().fit(true * logits, target).temperature) == pytest.approx(true, rel=0.02)


def test_many_rows_start_from_a_sample_and_end_at_the_optimum(monkeypatch):
    from lightning_losses.calibrators import temperature_scaling as module

    logits, target = sample(2000, dtype=torch.float64)
    whole = C.TemperatureScaling().fit(logits, target).temperature
    monkeypatch.setattr(module, "_SAMPLE", 100)
    monkeypatch.setattr(module, "_CHUNK", 1000)
    torch.testing.assert_close(C.TemperatureScaling().fit(logits, target).temperature, whole, rtol=1e-11, atol=0)


@pytest.mark.parametrize(("target", "clamped"), [("right", 0.05), ("wrong", 20.0)])
def test_temperatures_without_optimum_are_clamped_with_a_warning(target, clamped):
    logits, _ = sample()
    extreme = logits.argmax(-1) if target == "right" else logits.argmin(-1)
    with pytest.warns(UserWarning, match="clamped") as told:
        calibrator = C.TemperatureScaling().fit(logits, extreme)
    assert told[0].filename == __file__
    assert float(calibrator.temperature) == pytest.approx(clamped)


@pytest.mark.parametrize("margin", [20.0, 3000.0])
def test_a_network_that_is_certain_and_right_has_the_least_temperature(margin):
    target = torch.arange(12) % 3
    # One row of equal logits has no say.
    logits = margin * torch.eye(3)[target] * (torch.arange(12) > 0).unsqueeze(1)
    with pytest.warns(UserWarning, match="clamped to 0.05"):
        calibrator = C.TemperatureScaling().fit(logits, target)
    assert float(calibrator.temperature) == pytest.approx(0.05)


@pytest.mark.parametrize("options", [{"minimum": "a"}, {"minimum": None}, {"minimum": 2.0, "maximum": 2.0}])
def test_bounds_that_are_no_numbers_in_order_are_refused(options):
    with pytest.raises(ValueError, match="^TemperatureScaling: m.*imum=.* came; give a number above"):
        C.TemperatureScaling(**options)


def test_equal_logits_leave_the_temperature_at_one():
    assert C.TemperatureScaling().fit(torch.zeros(4, 3), torch.tensor([0, 1, 1, 2])).temperature == 1


def test_huge_logits_are_finite():
    logits, target = sample(dtype=torch.float32)
    calibrator = C.TemperatureScaling(maximum=1e6).fit(1e4 * logits, target)
    assert torch.isfinite(calibrator(1e4 * logits)).all()
    assert calibrator.temperature > 1e4


@pytest.mark.parametrize("factor", [1e-20, 1e12])
def test_vector_scaling_follows_the_scale_of_the_logits(factor):
    logits, target = sample(200, dtype=torch.float64)
    expected = C.VectorScaling().fit(logits, target)(logits).softmax(-1)
    calibrated = C.VectorScaling().fit(factor * logits, target)(factor * logits).softmax(-1)
    torch.testing.assert_close(calibrated, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_vector_scaling_is_the_optimum(mu):
    logits, target = sample(dtype=torch.float64)
    logits = logits * torch.tensor([1.0, 5.0, 0.1, 1.0]) + torch.tensor([0.0, 30.0, 0.0, -2.0])
    calibrator = C.VectorScaling(mu).fit(logits, target)

    def objective(x):
        return F.cross_entropy(x[:4] * logits + x[4:], target) + mu * x[4:].square().mean()

    value = objective(torch.cat([calibrator.scale, calibrator.offset]))
    best = solved(objective, [1.0] * 4 + [0.0] * 4)
    # Never worse than scipy's, and better by no more than scipy's own stopping leaves.
    assert best.fun - 1e-6 < float(value) <= best.fun + 1e-10


@pytest.mark.parametrize("kind", [C.MatrixScaling, C.DirichletCalibration])
@pytest.mark.parametrize("penalty", [(0.01, 0.01), (1.0, 0.0)])
def test_affine_calibrators_are_the_optimum(kind, penalty):
    lam, mu = penalty
    logits, target = sample(dtype=torch.float64)
    features = logits if kind is C.MatrixScaling else logits.log_softmax(-1)
    off_diagonal = 1 - torch.eye(4, dtype=torch.float64)

    def objective(x):
        weight, offset = x[:16].reshape(4, 4), x[16:]
        penalty = lam * (off_diagonal * weight.square()).sum() / 12 + mu * offset.square().sum() / 4
        return F.cross_entropy(features @ weight.T + offset, target) + penalty

    calibrator = kind(lam, mu).fit(logits, target)
    value = objective(torch.cat([calibrator.weight.reshape(-1), calibrator.offset]))
    best = solved(objective, torch.cat([torch.eye(4).reshape(-1), torch.zeros(4)]).numpy())
    assert best.fun - 1e-6 < float(value) <= best.fun + 1e-10


def test_an_affine_distortion_is_recovered():
    clean = 2 * torch.randn(20_000, 3, dtype=torch.float64)
    target = torch.multinomial(clean.softmax(-1), 1)[:, 0]
    mixed = clean @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.0], [0.3, 0.0, 1.0]], dtype=torch.float64)
    logits = C.MatrixScaling(0.0, 0.0).fit(mixed, target)(mixed)
    # 12 parameters on 20 000 samples: a mean divergence of about 12 / (2 * 20000).
    divergence = F.kl_div(logits.log_softmax(-1), clean.log_softmax(-1), log_target=True, reduction="batchmean")
    assert float(divergence) < 1e-3


@pytest.mark.parametrize("kind", [C.VectorScaling, C.MatrixScaling, C.DirichletCalibration])
def test_a_class_without_rows_is_told(kind):
    logits, target = sample(100, dtype=torch.float64)
    message = f"^{kind.__name__}: no row is of class 1, 3, so that nothing but a penalty"
    with pytest.warns(UserWarning, match=message) as told:
        kind().fit(logits, target // 2 * 2)
    assert told[0].filename == __file__


def test_separable_classes_have_no_vector_scaling():
    target = torch.arange(40) % 4
    with pytest.warns(UserWarning, match="VectorScaling: .* short of its optimum; data whose classes can be separated"):
        C.VectorScaling().fit(3 * torch.eye(4)[target] + torch.rand(40, 4), target)


def test_data_without_an_optimum_warn():
    logits = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).repeat(10, 1)
    with pytest.warns(UserWarning, match="separate"):
        C.PlattScaling(target_smoothing=False).fit(logits[:, 1], (logits[:, 1] > 0).long())
    C.PlattScaling().fit(logits[:, 1], (logits[:, 1] > 0).long())


@pytest.mark.parametrize("smoothing", [True, False])
def test_platt_is_the_optimum(smoothing):
    logits, target = sample(classes=2, dtype=torch.float64)
    score = 3 * (logits[:, 1] - logits[:, 0]) + 100
    positive, negative = int(target.sum()), int((1 - target).sum())
    soft = torch.where(target == 1, (positive + 1) / (positive + 2), 1 / (negative + 2)) if smoothing else target
    best = solved(lambda x: F.binary_cross_entropy_with_logits(x[0] * (score - 100) + x[1], soft.double()), [1.0, 0.0])
    calibrator = C.PlattScaling(smoothing).fit(score, target)
    slope, offset = float(calibrator.slope[0]), float(calibrator.offset[0])
    assert (slope, offset + 100 * slope) == pytest.approx(tuple(best.x), rel=1e-5)


@pytest.mark.parametrize("shape", ["identity", "overconfident", "skewed", "reversed"])
def test_beta_is_the_constrained_optimum(shape):
    score = torch.rand(2000, dtype=torch.float64) * 0.98 + 0.01
    true = {"identity": score, "overconfident": 0.5 + 0.5 * (score - 0.5), "skewed": score**3, "reversed": 1 - score}[
        shape
    ]
    target = torch.bernoulli(true).long()
    calibrator = C.BetaCalibration().fit(torch.logit(score), target)

    def objective(x):
        return F.binary_cross_entropy_with_logits(
            x[0] * score.log() - x[1] * torch.log1p(-score) + x[2], target.double()
        )

    value = objective(torch.cat([calibrator.slopes[0], calibrator.offset]))
    best = solved(objective, [1.0, 1.0, 0.0], bounds=[(0, None), (0, None), (None, None)])
    assert (calibrator.slopes >= 0).all()
    assert best.fun - 1e-8 < float(value) <= best.fun + 1e-10
    if shape == "identity":
        # 2000 samples tell the slopes to about a tenth.
        torch.testing.assert_close(calibrator.slopes[0], torch.ones(2, dtype=torch.float64), rtol=0, atol=0.3)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), min_size=1, max_size=80))
def test_isotonic_agrees_with_scikit_learn(pairs):
    score = torch.tensor([float(s) for s, _ in pairs], dtype=torch.float64)
    outcome = torch.tensor([float(o) for _, o in pairs], dtype=torch.float64)
    knots = pool_adjacent_violators(score, outcome)
    theirs = ScikitIsotonic(out_of_bounds="clip").fit(score.numpy(), outcome.numpy())
    grid = np.linspace(-1, 31, 129)
    ours = np.interp(grid, knots.score.numpy(), knots.value.numpy())
    np.testing.assert_allclose(ours, theirs.predict(grid), rtol=1e-12, atol=1e-12)
    assert (knots.value.diff() >= 0).all()


@pytest.mark.parametrize(
    "outcome",
    [
        torch.cat([torch.arange(3000.0), torch.tensor([-1e6])]),
        torch.arange(3000.0),
        -torch.arange(3000.0),
        torch.randn(3000),
    ],
    ids=["one pools all", "risen", "fallen", "noise"],
)
def test_pooling_ends_at_the_optimum_whatever_the_order(outcome):
    score = torch.arange(float(len(outcome)), dtype=torch.float64)
    knots = pool_adjacent_violators(score, outcome.double())
    theirs = ScikitIsotonic().fit_transform(score.numpy(), outcome.double().numpy())
    np.testing.assert_allclose(np.interp(score, knots.score, knots.value), theirs, rtol=1e-10, atol=1e-10)


def test_sums_in_pieces_are_those_of_the_whole(monkeypatch):
    logits, target = sample(dtype=torch.float64)
    coefficients = torch.randn(4, 5, dtype=torch.float64)
    whole = convex.affine_softmax(logits, target, coefficients)
    monkeypatch.setattr(convex, "_CHUNK", 64)
    torch.testing.assert_close(convex.affine_softmax(logits, target, coefficients), whole, rtol=1e-12, atol=1e-14)


def test_beyond_the_knots_their_ends_hold():
    scores, knots = torch.tensor([[-1.0, 0.25, 1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(
        interpolate(scores, knots, torch.tensor([[0.2, 0.6]])), torch.tensor([[0.2, 0.3, 0.6, 0.6]])
    )


@pytest.mark.parametrize("calibrator", [C.IsotonicRegression(), C.HistogramBinning(num_bins=6, binning="mass")])
def test_step_functions_against_the_rest(calibrator):
    logits, target = sample(2000, dtype=torch.float64)
    calibrator.fit(logits, target)
    probabilities = calibrator.class_probabilities(logits)
    for c in range(4):
        # Least squares on steps: the mean of every class is its frequency.
        torch.testing.assert_close(probabilities[:, c].mean(), (target == c).double().mean())
    order = logits.softmax(-1)[:, 0].argsort()
    if isinstance(calibrator, C.IsotonicRegression):
        assert (probabilities[order, 0].diff() >= 0).all()
    torch.testing.assert_close(calibrator(logits).softmax(-1).sum(-1), torch.ones(2000, dtype=torch.float64))


def test_classes_that_all_get_zero_become_uniform():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).repeat(5, 1)
    calibrator = C.HistogramBinning(num_bins=2).fit(logits, (logits[:, 1] < logits[:, 0]).long())
    impossible = calibrator.values.clone().zero_()
    calibrator.values = impossible
    torch.testing.assert_close(calibrator(logits).softmax(-1), torch.full((10, 2), 0.5))


def test_empty_bins_keep_their_centre():
    calibrator = C.HistogramBinning(num_bins=4).fit(torch.tensor([0.1, 0.2]), torch.tensor([0, 1]))
    torch.testing.assert_close(calibrator.values, torch.tensor([[0.125, 0.375, 0.5, 0.875]]))


def test_equal_mass_bins_of_the_calibrator_are_equal():
    score = torch.randn(60, dtype=torch.float64)
    calibrator = C.HistogramBinning(num_bins=7, binning="mass").fit(score, (score > 0).long())
    counts = torch.bincount(torch.searchsorted(calibrator.edges[0], score.sigmoid()), minlength=7)
    assert counts.max() - counts.min() <= 1


def test_ensemble_weights_are_the_optimum_on_the_simplex():
    logits, target = sample(2000, sharpness=4.0, dtype=torch.float64)
    calibrator = C.EnsembleTemperatureScaling().fit(logits, target)
    one_hot = F.one_hot(target, 4).double()

    def error(weights, temperature):
        mixture = weights[0] * (logits / temperature).softmax(-1) + weights[1] * logits.softmax(-1) + weights[2] / 4
        return (mixture - one_hot).square().sum(-1).mean()

    simplex = torch.distributions.Dirichlet(torch.full((3,), 0.5, dtype=torch.float64)).sample((500,))
    ours = error(calibrator.weights, calibrator.temperature)
    assert all(ours <= error(weights, calibrator.temperature) + 1e-12 for weights in [*simplex, *torch.eye(3)])
    nearby = calibrator.temperature * torch.linspace(0.9, 1.1, 21)
    scaled = torch.tensor([1.0, 0.0, 0.0])
    assert all(error(scaled, calibrator.temperature) <= error(scaled, t) + 1e-12 for t in nearby)
    assert float(calibrator.weights.sum()) == pytest.approx(1)


def test_one_absurd_probability_does_not_rule_a_dirichlet_fit():
    logits, target = sample(dtype=torch.float64)
    absurd, floored = logits.clone(), logits.clone()
    absurd[0, (target[0] + 1) % 4] = -1e4
    # The class with the floor's probability, beside the others.
    floored[0, (target[0] + 1) % 4] = -math.log(1e12) + floored[0, torch.arange(4) != (target[0] + 1) % 4].logsumexp(0)
    fitted, expected = (C.DirichletCalibration().fit(x, target)(logits).log_softmax(dim=-1) for x in (absurd, floored))
    torch.testing.assert_close(fitted, expected, rtol=1e-4, atol=1e-4)
