"""A calibrator is the same map in every precision, and keeps what it is where numbers end."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lightning_losses import calibrators as C
from tests.calibrators.test_every_calibrator import BINARY, CALIBRATORS, every, sample

BY_CLASS = [name for name in CALIBRATORS if name not in ("temperature", "ensemble", "isotonic_multiclass")]


@every
@pytest.mark.parametrize("fitted", [torch.float32, torch.float64])
def test_a_map_is_the_same_applied_in_another_precision(name, fitted):
    # Tied and close scores: a step between two of them must stay between them.
    logits, target = sample()
    logits = (8 * logits).round() / 8
    calibrator = CALIBRATORS[name]().fit(logits.to(fitted), target)
    single, double = (calibrator(logits.to(dtype)) for dtype in (torch.float32, torch.float64))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.softmax(-1).double(), double.softmax(-1), rtol=0, atol=1e-6)
    if calibrator.keeps_argmax:
        assert torch.equal(single.argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize("name", BINARY)
def test_a_binary_map_is_the_same_applied_in_another_precision(name):
    logits, target = sample(classes=2)
    score = logits[:, 1]
    calibrator = CALIBRATORS[name]().fit(score, target)
    torch.testing.assert_close(
        calibrator(score).sigmoid().double(), calibrator(score.double()).sigmoid(), rtol=0, atol=1e-6
    )


@every
@pytest.mark.parametrize("turned", ["half", "bfloat16", "double"])
def test_a_module_turned_to_another_precision_keeps_its_map(name, turned):
    logits, target = sample()
    calibrator = CALIBRATORS[name]().fit(logits, target)
    expected = calibrator(logits)
    model = getattr(C.CalibratedModel(nn.Linear(4, 4), calibrator), turned)()
    assert model.model.weight.dtype != torch.float32
    assert torch.equal(calibrator(logits), expected)


@every
def test_nan_stays_nan_and_an_empty_batch_empty(name):
    logits, target = sample()
    calibrator = CALIBRATORS[name]().fit(logits, target)
    spoiled = logits[:5].clone()
    spoiled[2, 1] = torch.nan
    result = calibrator(spoiled)
    kept = torch.tensor([0, 1, 3, 4])
    assert torch.equal(result[kept], calibrator(logits[:5])[kept])
    assert result[2].softmax(-1).isnan().all()
    assert calibrator(logits[:0]).shape == (0, 4)


@pytest.mark.parametrize("name", BY_CLASS)
def test_other_classes_than_at_the_fit_are_refused(name):
    calibrator = CALIBRATORS[name]().fit(*sample())
    for classes in (1, 3):
        with pytest.raises(ValueError, match=rf"shape \[2, {classes}\] came, but it was fitted on 4 classes"):
            calibrator(torch.zeros(2, classes))


@every
@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [0.1, 2.0, -3.0]])
def test_constant_logits_give_the_frequencies_of_the_classes(name, row):
    logits, target = torch.tensor([row]).repeat(900, 1), torch.arange(900) % 9 // 2 % 3
    calibrator = CALIBRATORS[name]().fit(logits, target)
    probabilities = calibrator(logits[:1]).softmax(-1)[0]
    assert torch.isfinite(probabilities).all()
    if name in BY_CLASS:
        frequencies = torch.bincount(target) / len(target)
        # What the priors and penalties of some take away.
        torch.testing.assert_close(probabilities, frequencies, rtol=0, atol=0.02)


@pytest.mark.parametrize("make", [C.PlattScaling, C.BetaCalibration])
def test_a_constant_score_has_no_slope(make):
    target = (torch.arange(1000) % 3 == 0).long()
    rounding = torch.tensor([0.1, 0.1 + 1e-17]).double().repeat(500)
    for score in (torch.full((1000,), 0.1), torch.full((1000,), 0.1, dtype=torch.float64), rounding):
        probability = make().fit(score, target)(score[:1] + torch.tensor([-1e-3, 0.0, 1e-3])).sigmoid()
        torch.testing.assert_close(probability.float(), torch.full((3,), 0.334), rtol=0, atol=1e-3)


def test_beta_calibration_of_confident_samples_is_exact_in_float32():
    generator = torch.Generator().manual_seed(0)
    score = 3 * torch.randn(2000, generator=generator)
    probability = (1 + 2 * score.sigmoid().log() + torch.log1p(-score.sigmoid())).sigmoid()
    target = (torch.rand(2000, generator=generator) < probability).long()
    confident = torch.tensor([16.0, 17.0, 30.0])
    binary = C.BetaCalibration().fit(score, target)
    assert binary(confident).sigmoid().tolist() == pytest.approx([0.19646] * 3, abs=1e-5)

    def two(values):
        return torch.stack([torch.zeros_like(values), values], -1)

    both = C.BetaCalibration().fit(two(score), target)
    assert both(two(confident)).softmax(-1)[:, 1].tolist() == pytest.approx([0.19646] * 3, abs=1e-5)
    gentle = C.BetaCalibration().fit(score, (torch.rand(2000, generator=generator) < (score / 4).sigmoid()).long())
    in_double = gentle(torch.tensor(17.0, dtype=torch.float64)).item()
    assert gentle(torch.tensor(17.0)).item() == pytest.approx(in_double, rel=1e-6) == pytest.approx(4.60, abs=0.01)


def test_gradients_of_beta_calibration_are_finite_at_certainty():
    calibrator = C.BetaCalibration().fit(*sample())
    logits = torch.tensor([[200.0, 0.0, -5.0, 1.0]], requires_grad=True)
    calibrator(logits).softmax(-1)[0, 0].backward()
    assert torch.isfinite(logits.grad).all()


def test_bayesian_edges_lie_between_neighbours_of_their_precision():
    # Probabilities that differ in their last bit: a midpoint in float64 rounds to one of them.
    low = torch.full((), 0.75)
    neighbours = [low]
    for _ in range(3):
        neighbours.append(torch.nextafter(neighbours[-1], torch.ones(())))
    for below, above in pairwise(neighbours):
        calibrator = C.BayesianBinning()
        fitted = calibrator._fit_class(torch.stack([below, above]).repeat(200), torch.tensor([False, True]).repeat(200))
        assert (fitted["edges"] >= below).any()
        assert (fitted["edges"] < above).all()


def test_ensemble_scaling_may_give_all_classes_the_same_probability():
    logits = torch.tensor([[0.0, 2.0, 0.0]]).repeat(20, 1)
    calibrator = C.EnsembleTemperatureScaling().fit(logits, torch.zeros(20, dtype=torch.long))
    assert not calibrator.keeps_argmax
    assert calibrator(logits[:1]).softmax(-1)[0].tolist() == pytest.approx([1 / 3] * 3)
