import copy
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses.calibrators import (
    CalibratedModel,
    Calibrator,
    CorrectnessAwareCalibrator,
    TemperatureScaling,
    image_views,
)
from lightning_losses.calibrators.correctness_aware_calibrator import _confidence
from lightning_losses.callbacks.calibration.post_hoc_calibration import PostHocCalibration
from lightning_losses.losses import CorrectnessAware
from lightning_losses.metrics import calibration_summary
from tests.callbacks.calibrated import trainer

VIEWS = ["rotate", "color_jitter", "blur"]


def sample(rows=800, classes=5, seed=0, dtype=torch.float32, informative=True):
    """An overconfident model whose views err independently of it, so that they tell how sure it may be."""
    generator = torch.Generator().manual_seed(seed)

    def noise():
        return torch.randn(rows, classes, generator=generator, dtype=torch.float64)

    truth = 2 * noise()
    target = torch.multinomial(truth.softmax(-1), 1, generator=generator)[:, 0]
    seen = [3 * (truth + noise()) for _ in range(4)]
    if not informative:
        seen[1:] = [torch.zeros_like(truth)] * 3
    return torch.stack(seen, dim=1).to(dtype), target


def make(**options):
    return CorrectnessAwareCalibrator(views=VIEWS, **options)


def test_views_separate_right_from_wrong_predictions_where_one_temperature_cannot():
    logits, target = sample(4000, seed=1)
    aware = make().fit(*sample(4000))
    scaled = TemperatureScaling().fit(*(lambda fit, labels: (fit[:, 0], labels))(*sample(4000)))
    ours = calibration_summary(aware(logits), target, inputs="logits")
    theirs = calibration_summary(scaled(logits[:, 0]), target, inputs="logits")
    # The least area under the risk-coverage curve that accuracy allows is far below both.
    assert ours["aurc"] < theirs["aurc"] - 0.02
    assert ours["brier"] < theirs["brier"] - 0.005
    temperature = aware.temperature(logits)
    right = logits[:, 0].argmax(-1) == target
    assert temperature[~right].median() > temperature[right].median()


@pytest.mark.parametrize("balanced", [False, True])
def test_views_that_say_nothing_leave_the_best_single_temperature_of_the_objective(balanced):
    logits, target = sample(2000, informative=False, dtype=torch.float64)
    found = make(balanced=balanced, steps=1500).fit(logits, target).temperature(logits)
    assert found.std() < 1e-6
    objective = CorrectnessAware(balanced=balanced)
    grid = torch.linspace(0.1, 10, 2000, dtype=torch.float64)
    best = min(grid.tolist(), key=lambda divisor: objective(logits[:, 0] / divisor, target).item())
    # The objective is flat about its minimum; the grid's step is 0.005.
    assert found[0].item() == pytest.approx(best, abs=0.05)


def test_the_slope_of_the_confidence_is_its_derivative():
    gaps = -3 * torch.rand(7, 4, dtype=torch.float64)
    gaps[:, 0] = 0
    temperature = torch.linspace(0.3, 4, 7, dtype=torch.float64, requires_grad=True)
    expected = torch.softmax(gaps / temperature.unsqueeze(-1), -1)[:, 0]
    expected.sum().backward()
    confidence, slope = _confidence(gaps, temperature.detach())
    torch.testing.assert_close(confidence, expected)
    torch.testing.assert_close(slope, temperature.grad)


def test_accuracy_is_kept():
    logits, _ = sample(3000, seed=1)
    assert torch.equal(make().fit(*sample())(logits).argmax(-1), logits[:, 0].argmax(-1))


def test_temperatures_stay_in_their_bounds_and_gradients_flow_to_the_logits():
    calibrator = make(minimum=3.0, maximum=6.0).fit(*sample())
    logits = sample(500, seed=1)[0].requires_grad_()
    temperature = calibrator.temperature(logits)
    assert temperature.min() == 3.0
    assert temperature.max() == 6.0
    assert ((temperature > 3.0) & (temperature < 6.0)).any()
    calibrator(logits).logsumexp(-1).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[:, 1:].abs().max() > 0


def test_autocast_rounds_no_temperature():
    logits, target = sample(50)
    calibrator = make(steps=20).fit(logits, target)
    expected = calibrator(logits)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(calibrator(logits), expected, rtol=0, atol=0)


def test_the_fit_is_deterministic_and_needs_no_gradient_mode():
    logits, target = sample()
    first = make().fit(logits, target)
    with torch.inference_mode():
        second = make().fit(logits.clone(), target.clone())
    state = torch.random.get_rng_state()
    third = make().fit(logits, target)
    assert torch.equal(state, torch.random.get_rng_state())
    for name in first.learned:
        assert torch.equal(first.get_buffer(name), second.get_buffer(name))
        assert torch.equal(first.get_buffer(name), third.get_buffer(name))


def test_ignored_rows_are_as_if_deleted_and_dimensions_folded():
    logits, target = sample(400)
    kept = torch.arange(400) % 2 == 0
    garbage = logits.masked_fill(~kept.reshape(-1, 1, 1), torch.nan)
    one = make().fit(garbage.reshape(20, 20, 4, 5), target.masked_fill(~kept, -100).reshape(20, 20))
    other = make().fit(logits[kept], target[kept])
    assert torch.equal(one(logits.reshape(20, 20, 4, 5)).reshape(400, 5), other(logits))


def test_state_and_file_round_trip(tmp_path):
    logits, target = sample()
    calibrator = make(top=2, hidden=3).fit(logits, target)
    calibrator.save(tmp_path / "calibrator.safetensors")
    loaded = Calibrator.load(tmp_path / "calibrator.safetensors")
    assert loaded.options == calibrator.options
    assert loaded.views == tuple(VIEWS)
    assert torch.equal(loaded(logits), calibrator(logits))
    assert torch.equal(copy.deepcopy(calibrator)(logits), calibrator(logits))


@pytest.mark.one_graph
def test_it_exports_with_the_model_that_predicts_the_views():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    images = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        seen = torch.stack([network(batch) for batch in (images, *image_views(images, VIEWS))], dim=1)
    model = CalibratedModel(network, make().fit(5 * seen, torch.arange(64) % 5)).eval()
    torch.testing.assert_close(model(images), model.calibrator(seen))
    batch = torch.export.Dim("batch", min=4, max=4096)
    exported = torch.export.export(model, (images[:8],), dynamic_shapes=(({0: batch},),)).module()
    torch.testing.assert_close(exported(images[:33]), model(images[:33]))


def test_few_samples_of_one_class_and_fewer_classes_than_top_stay_finite():
    logits, _ = sample(5, classes=2)
    calibrator = make(balanced=True).fit(logits, torch.zeros(5, dtype=torch.long))
    assert calibrator.hidden_weight.shape == (5, 6)
    assert torch.isfinite(calibrator(1e4 * logits)).all()


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3, 5), torch.tensor([0, 1, 2]), r"give \[N, 4, C\]"),
        (torch.zeros(3, 2, 5), torch.tensor([0, 1, 2]), r"give \[N, 4, C\]"),
        (torch.zeros(3, 4, 5), torch.tensor([0, 1]), "shape"),
        (torch.zeros(3, 4, 5), torch.tensor([0, 1, 7]), "targets from 0 to 7"),
        (torch.full((3, 4, 5), torch.nan), torch.tensor([0, 1, 2]), "NaN or inf"),
        (torch.zeros(0, 4, 5), torch.zeros(0, dtype=torch.long), "no rows"),
        ([[[0.0]]], torch.tensor([0]), "logits is a list"),
    ],
)
def test_bad_input_is_refused_by_name(logits, target, message):
    with pytest.raises(ValueError, match=rf"^CorrectnessAwareCalibrator: .*{message}"):
        make().fit(logits, target)


def test_unfitted_other_classes_and_bad_options_are_refused():
    with pytest.raises(ValueError, match="not fitted"):
        make()(torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match="the fit had another number"):
        make().fit(*sample())(torch.zeros(2, 4, 3))
    for options in ({"top": 0}, {"hidden": 2.5}, {"minimum": 0.0}, {"maximum": 0.05}, {"steps": 0}, {"views": ["x"]}):
        with pytest.raises(ValueError, match=rf"CorrectnessAwareCalibrator: .*{next(iter(options))}"):
            CorrectnessAwareCalibrator(**options)


class Pictures(L.LightningModule):
    """A fixed overconfident network on images; its steps take tuples or mappings."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        self.network[1].weight.data *= 20

    def training_step(self, batch, batch_idx):
        return 0.0 * self.predict_step(batch, batch_idx)["logits"].sum()

    def predict_step(self, batch, batch_idx):
        inputs, target = batch.values() if isinstance(batch, dict) else batch
        return {"logits": self.network(inputs), "target": target}

    validation_step = test_step = predict_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize("mapping", [False, True])
def test_the_callback_predicts_the_views_and_reports_before_and_after(tmp_path, mapping):
    images, target = torch.randn(90, 3, 4, 4), torch.arange(90) % 3
    rows = [{"inputs": x, "target": y} if mapping else (x, y) for x, y in zip(images, target, strict=True)]
    loader = DataLoader(rows, batch_size=32)
    module, callback = Pictures(), PostHocCalibration(make())
    fitter = trainer(tmp_path, callback, max_epochs=1)
    fitter.fit(module, loader, loader)
    with torch.no_grad():
        seen = torch.stack([module.network(batch) for batch in (images, *image_views(images, VIEWS))], dim=1)
    expected = make().fit(seen, target)
    torch.testing.assert_close(callback.calibrator.state_dict(), expected.state_dict())
    (results,) = fitter.test(module, loader, verbose=False)
    for part, logits in (("before", seen[:, 0]), ("after", expected(seen))):
        for name, value in calibration_summary(logits, target, inputs="logits").items():
            assert results[f"test/calibration/{part}/{name}"] == pytest.approx(float(value), rel=1e-4, abs=1e-6)
    assert results["test/calibration/after/brier"] < results["test/calibration/before/brier"]


def test_views_are_predicted_in_the_precision_of_the_samples():
    module, callback, precise = Pictures(), PostHocCalibration(make(steps=1)), []
    callback.calibrator.fit(torch.randn(4, 4, 3), torch.arange(4) % 3)
    batch = torch.randn(4, 3, 4, 4), torch.zeros(4, dtype=torch.int64)
    outputs = module.test_step(batch, 0)
    module.network.register_forward_hook(lambda *_: precise.append(torch.is_autocast_enabled("cpu")))
    within = SimpleNamespace(precision_plugin=MixedPrecision("bf16-mixed", "cpu"), test_dataloaders=[batch])
    callback.on_test_batch_end(within, module, outputs, batch, 0)
    assert precise == [True] * 3


def test_images_that_views_can_not_be_made_of_are_told():
    calibrator = make(steps=1).fit(torch.randn(4, 4, 3), torch.arange(4) % 3)
    with pytest.raises(ValueError, match=r"0 inputs by place and \['images'\] by name came; give one"):
        CalibratedModel(nn.Identity(), calibrator)(images=torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="logits have shape .4, 3.; give"):
        calibrator.temperature(torch.randn(4, 3))


def test_the_callback_refuses_batches_without_images(tmp_path):
    loader = DataLoader([{"tokens": torch.zeros(3, 4, 4), "target": torch.tensor(1)}] * 4, batch_size=2)
    with pytest.raises(ValueError, match=r"PostHocCalibration: views need batches of images"):
        trainer(tmp_path, PostHocCalibration(make()), max_epochs=1).fit(Pictures(), loader, loader)
