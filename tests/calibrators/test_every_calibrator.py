"""What every post-hoc calibrator keeps: determinism, state, export, refusals."""

import copy
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_losses import calibrators as C
from lightning_losses.calibrators import HistogramBinning, IsotonicRegression

CALIBRATORS = {
    "temperature": lambda: C.TemperatureScaling(),
    "ensemble": lambda: C.EnsembleTemperatureScaling(),
    "vector": lambda: C.VectorScaling(),
    "matrix": lambda: C.MatrixScaling(),
    "dirichlet": lambda: C.DirichletCalibration(),
    "platt": lambda: C.PlattScaling(),
    "beta": lambda: C.BetaCalibration(),
    "isotonic": lambda: C.IsotonicRegression(),
    "isotonic_multiclass": lambda: C.IsotonicMulticlass(),
    "histogram": lambda: C.HistogramBinning(),
    "bayesian_binning": lambda: C.BayesianBinning(),
    "histogram_mass": lambda: C.HistogramBinning(num_bins=8, binning="mass"),
}
BINARY = [name for name, make in CALIBRATORS.items() if make().takes_binary]

every = pytest.mark.parametrize("name", CALIBRATORS)


def sample(rows=400, classes=4, sharpness=2.0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    target = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]
    return (sharpness * logits).to(dtype), target


def nll(logits, target):
    # A probability of 0 counts as 1e-6, so that step functions can be compared too.
    return -torch.softmax(logits.double(), -1).gather(-1, target.unsqueeze(-1)).clamp(min=1e-6).log().mean()


@every
def test_it_improves_held_out_likelihood_of_an_overconfident_model(name):
    calibrator = CALIBRATORS[name]().fit(*sample(4000, sharpness=3.0))
    logits, target = sample(2000, sharpness=3.0, seed=1)
    assert nll(calibrator(logits), target) < nll(logits, target) - 0.1


@every
def test_calibrated_data_change_little(name):
    calibrator = CALIBRATORS[name]().fit(*sample(20_000, sharpness=1.0))
    logits, target = sample(2000, sharpness=1.0, seed=1)
    # Bins coarsen, and sigmoids of each logit are not a softmax; the others are within the noise of 20 000 samples.
    slack = 0.1 if name in ("histogram", "histogram_mass", "platt") else 0.02
    assert nll(calibrator(logits), target) < nll(logits, target) + slack


@every
def test_accuracy_is_kept_where_theory_says_so(name):
    calibrator = CALIBRATORS[name]().fit(*sample())
    logits, _ = sample(3000, seed=1)
    if calibrator.keeps_argmax:
        assert torch.equal(calibrator(logits).argmax(-1), logits.argmax(-1))
    elif name not in ("platt", "beta", "ensemble"):
        assert not torch.equal(calibrator(logits).argmax(-1), logits.argmax(-1))


@every
def test_the_fit_is_deterministic_and_needs_no_gradient_mode(name):
    first, second, third = (CALIBRATORS[name]() for _ in range(3))
    logits, target = sample()
    first.fit(logits, target)
    with torch.no_grad():
        second.fit(logits, target)
    with torch.inference_mode():
        third.fit(logits.clone(), target.clone())
    for buffer in first.learned:
        assert torch.equal(first.get_buffer(buffer), second.get_buffer(buffer))
        assert torch.equal(first.get_buffer(buffer), third.get_buffer(buffer))
        assert not third.get_buffer(buffer).is_inference()


@every
def test_inputs_are_left_as_they_were(name):
    logits, target = sample()
    before = logits.clone(), target.clone()
    CALIBRATORS[name]().fit(logits, target)(logits)
    assert torch.equal(logits, before[0])
    assert torch.equal(target, before[1])


@every
def test_the_order_of_the_rows_does_not_matter(name):
    logits, target = sample(dtype=torch.float64)
    order = torch.randperm(len(target))
    one, other = CALIBRATORS[name]().fit(logits, target), CALIBRATORS[name]().fit(logits[order], target[order])
    # Solvers stop within about the root of float64's rounding of the optimum.
    torch.testing.assert_close(one(logits).softmax(-1), other(logits).softmax(-1), rtol=0, atol=1e-7)


@every
def test_ignored_rows_are_as_if_deleted_and_dimensions_folded(name):
    logits, target = sample(dtype=torch.float64)
    kept = torch.arange(len(target)) % 2 == 0
    garbage = logits.masked_fill(~kept.unsqueeze(-1), torch.nan)
    one = CALIBRATORS[name]().fit(garbage.reshape(20, 20, 4), target.masked_fill(~kept, -100).reshape(20, 20))
    other = CALIBRATORS[name]().fit(logits[kept], target[kept])
    assert torch.equal(one(logits.reshape(20, 20, 4)).reshape(400, 4), other(logits))


@every
def test_state_and_file_round_trip(name, tmp_path):
    logits, target = sample()
    calibrator = CALIBRATORS[name]().fit(logits, target)
    calibrator.save(tmp_path / "calibrator.safetensors")
    loaded = C.Calibrator.load(tmp_path / "calibrator.safetensors")
    assert type(loaded) is type(calibrator)
    assert loaded.options == calibrator.options
    assert torch.equal(loaded(logits), calibrator(logits))
    fresh = CALIBRATORS[name]()
    fresh.load_state_dict(calibrator.state_dict())
    assert torch.equal(fresh(logits), calibrator(logits))
    assert torch.equal(copy.deepcopy(calibrator)(logits), calibrator(logits))


@every
def test_it_can_be_fitted_again(name):
    calibrator = CALIBRATORS[name]().fit(*sample(seed=3))
    logits, target = sample()
    assert torch.equal(calibrator.fit(logits, target)(logits), CALIBRATORS[name]().fit(logits, target)(logits))


@pytest.mark.one_graph
@every
def test_it_exports_with_the_model(name):
    logits, target = sample()
    model = C.CalibratedModel(nn.Linear(4, 4), CALIBRATORS[name]().fit(logits, target)).eval()
    batch = torch.export.Dim("batch", min=2, max=4096)
    exported = torch.export.export(model, (logits[:8],), dynamic_shapes=(({0: batch},),)).module()
    torch.testing.assert_close(exported(logits[:33]), model(logits[:33]))


@every
def test_half_precision_logits_give_float32(name):
    logits, target = sample()
    calibrator = CALIBRATORS[name]().fit(logits, target)
    result = calibrator(logits.bfloat16())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, calibrator(logits.bfloat16().float()), rtol=0, atol=0)


@every
def test_autocast_rounds_nothing(name):
    logits, target = sample()
    calibrator = CALIBRATORS[name]().fit(logits, target)
    expected = calibrator(logits)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(calibrator(logits), expected, rtol=0, atol=0)


@pytest.mark.cuda
@every
def test_a_fit_on_a_gpu_is_that_of_the_cpu(name):
    logits, target = sample(dtype=torch.float64)
    expected = CALIBRATORS[name]().fit(logits, target)(logits).softmax(-1)
    calibrated = CALIBRATORS[name]().fit(logits.cuda(), target.cuda())(logits.cuda()).softmax(-1)
    torch.testing.assert_close(calibrated.cpu(), expected, rtol=0, atol=1e-7)


@every
def test_unfitted_is_refused(name, tmp_path):
    calibrator = CALIBRATORS[name]()
    assert not calibrator.fitted
    for use in (
        lambda: calibrator(torch.zeros(2, 4)),
        lambda: calibrator.save(tmp_path / "x"),
        lambda: C.CalibratedModel(nn.Identity(), calibrator),
    ):
        with pytest.raises(ValueError, match="not fitted"):
            use()


@every
@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), "no rows"),
        (torch.zeros(3, 4), torch.full((3,), -100), "no rows"),
        (torch.full((3, 4), torch.nan), torch.tensor([0, 1, 2]), "NaN or inf"),
        (torch.full((3, 4), -torch.inf), torch.tensor([0, 1, 2]), "NaN or inf"),
        (torch.eye(3, 4).masked_fill(torch.arange(4) == 2, torch.nan), torch.tensor([0, 1, 2]), "NaN or inf"),
        (torch.zeros(3, 4).index_fill(0, torch.tensor(2), torch.inf), torch.tensor([0, 1, 2]), "NaN or inf"),
        (torch.zeros(3, 4), torch.tensor([0, 1, 4]), "targets from 0 to 4"),
        (torch.zeros(3, 4), torch.tensor([0, 1]), "shape"),
        (torch.zeros(3, 4), None, "target is a NoneType"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), "fewer than two classes"),
        (torch.zeros(3, 4), torch.tensor([0.0, 1.0, 2.0]), "float32"),
        (torch.zeros(3, 4, dtype=torch.long), torch.tensor([0, 1, 2]), "dtype torch.int64"),
    ],
)
def test_bad_input_is_refused_by_name(name, logits, target, message):
    calibrator = CALIBRATORS[name]()
    with pytest.raises(ValueError, match=rf"^{type(calibrator).__name__}: .*{message}"):
        calibrator.fit(logits, target)


@every
def test_few_samples_of_one_class_stay_finite(name):
    logits, _ = sample(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrator = CALIBRATORS[name]().fit(logits, torch.zeros(5, dtype=torch.long))
    probabilities = calibrator(logits).softmax(-1)
    assert torch.isfinite(probabilities).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(5))


@pytest.mark.parametrize("name", BINARY)
def test_binary_logits_are_calibrated_alike(name):
    logits, target = sample(4000, classes=2, sharpness=3.0, dtype=torch.float64)
    score = logits[:, 1] - logits[:, 0]
    calibrator = CALIBRATORS[name]().fit(score, target)
    probability = calibrator(score).sigmoid()
    assert probability.shape == score.shape
    assert (probability - target).square().mean() < (score.sigmoid() - target).square().mean() - 0.01
    # Calibrated in the large: the mean probability is the frequency (a temperature has no offset to make it exact).
    assert (probability.mean() - target.double().mean()).abs() < 0.01


@pytest.mark.parametrize("name", sorted(set(CALIBRATORS) - set(BINARY)))
def test_binary_logits_are_refused_where_there_is_no_meaning(name):
    with pytest.raises(ValueError, match=r"give \[N, C\]"):
        CALIBRATORS[name]().fit(torch.zeros(4), torch.zeros(4, dtype=torch.long))


def test_damaged_options_are_told_with_the_files_name(tmp_path):
    save_file({"temperature": torch.ones(())}, tmp_path / "a", {"calibrator": "TemperatureScaling", "options": "{"})
    with pytest.raises(ValueError, match="a is no calibrator that can be read .Expecting property name"):
        C.Calibrator.load(tmp_path / "a")


def test_another_files_content_is_refused(tmp_path):
    save_file({"temperature": torch.ones(())}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no calibrator"):
        C.Calibrator.load(tmp_path / "other.safetensors")
    C.TemperatureScaling().fit(*sample()).save(tmp_path / "temperature.safetensors")
    with pytest.raises(ValueError, match="TemperatureScaling"):
        C.MatrixScaling.load(tmp_path / "temperature.safetensors")


@every
def test_a_state_owns_its_tensors_and_holds_no_network(name):
    """Two of vector scaling's lay in one storage, in the precision in which it was solved."""
    network = nn.Linear(4, 4, dtype=torch.float64)
    logits = network(sample(100, dtype=torch.float64)[0])
    calibrator = CALIBRATORS[name]().fit(logits, sample(100)[1])
    assert list(calibrator.modules()) == [calibrator] and not list(calibrator.parameters())
    state, expected = calibrator.state_dict(), calibrator(logits).detach()
    for tensor in state.values():
        assert tensor.grad_fn is None and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    copies = [copy.deepcopy(calibrator), pickle.loads(pickle.dumps(calibrator)), CALIBRATORS[name]()]
    given = {key: tensor.clone() for key, tensor in state.items()}
    copies[2].load_state_dict(given)
    assert b"Linear" not in pickle.dumps(calibrator)
    for tensor in (*given.values(), *state.values()):
        # What it came from, and what goes on elsewhere, is not that of the copies.
        tensor.zero_()
    for other in copies:
        assert torch.equal(other(logits), expected)


@pytest.mark.parametrize("kind", [HistogramBinning, IsotonicRegression])
def test_where_every_class_that_is_left_got_0_they_are_alike(kind):
    logits = 2 * torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    fitted = kind().fit(logits, torch.zeros(300, dtype=torch.long))
    masked = fitted(torch.tensor([[-torch.inf, 1.0, 0.5]])).softmax(dim=-1)
    assert torch.allclose(masked, torch.tensor([[0.0, 0.5, 0.5]]))
