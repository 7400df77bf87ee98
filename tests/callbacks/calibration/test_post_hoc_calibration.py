import functools

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_losses.calibrators import (
    APS,
    Calibrator,
    ConformalSets,
    DirichletCalibration,
    TemperatureScaling,
    VectorScaling,
)
from lightning_losses.callbacks.calibration.post_hoc_calibration import PostHocCalibration
from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint
from lightning_losses.metrics import calibration_summary, set_coverage, set_size
from tests.callbacks.calibrated import Data, Overconfident, data, on_processes, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*it is recommended to use `devices=1`.*"),
    pytest.mark.filterwarnings("ignore:.*DistributedSampler.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
]


def logits(module, part):
    inputs, target = data(part)
    with torch.no_grad():
        return module.eval().network(inputs), target


def test_without_a_best_checkpoint_it_fits_the_last_weights(tmp_path):
    callback, module = PostHocCalibration(VectorScaling), Overconfident()
    trainer(tmp_path, callback).fit(module, Data())
    expected = VectorScaling().fit(*logits(module, "val"))
    torch.testing.assert_close(callback.calibrator.scale, expected.scale)
    assert callback.path == tmp_path / "last.calibrator.safetensors"
    loaded = Calibrator.load(callback.path)
    assert isinstance(loaded, VectorScaling)
    assert torch.equal(loaded.scale, callback.calibrator.scale)


def test_rows_of_nan_are_not_taken_for_covered():
    fitted, rows = APS(alpha=0.2).fit(*data("val")), torch.zeros(3, 4)
    rows[1] = torch.nan
    with pytest.raises(ValueError, match="^PostHocCalibration: predictions hold NaN"):
        PostHocCalibration(APS)._report_sets(None, None, fitted, "test/conformal", rows, torch.arange(3))


def test_it_fits_the_best_checkpoint_and_leaves_the_last_weights(tmp_path):
    best = ModelCheckpoint(tmp_path / "kept", "best", monitor="val/loss")
    callback, module = PostHocCalibration(), Overconfident()
    trainer(tmp_path, callback, best, enable_checkpointing=True).fit(module, Data())
    assert callback.path == tmp_path / "kept" / "best.calibrator.safetensors"
    weights = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert (weights["network.0.weight"] - module.network[0].weight).abs().max() > 0.1
    alone = Overconfident()
    trainer(tmp_path).fit(alone, Data())
    assert torch.equal(module.network[0].weight, alone.network[0].weight)
    chosen = Overconfident()
    chosen.load_state_dict(weights)
    torch.testing.assert_close(
        callback.calibrator.temperature, TemperatureScaling().fit(*logits(chosen, "val")).temperature
    )


def test_conformal_sets_are_fitted_and_tested(tmp_path):
    callback, module = PostHocCalibration(lambda: APS(0.3, randomised=True), folder=tmp_path), Overconfident()
    fitter = trainer(tmp_path, callback)
    fitter.fit(module, Data())
    fitted = ConformalSets.load(callback.path)
    expected = APS(0.3, randomised=True).fit(*logits(module, "val"))
    torch.testing.assert_close(fitted.calibration, expected.calibration)
    (found,) = fitter.test(module, Data(), verbose=False)
    predicted, target = logits(module, "test")
    sets = fitted(predicted, uniforms=fitted.uniforms_of(len(target)))
    assert found["test/conformal/coverage"] == pytest.approx(float(set_coverage(sets, target)))
    assert found["test/conformal/set_size"] == pytest.approx(float(set_size(sets, target)))
    assert not any(name.startswith("test/calibration") for name in found)


def test_a_best_checkpoint_that_was_changed_is_refused(tmp_path):
    class Damages(L.Callback):
        def on_train_end(self, trainer, pl_module):
            best = tmp_path / "best.ckpt"
            best.write_bytes(best.read_bytes()[:-1] + b"x")

    callbacks = PostHocCalibration(), LastCheckpoint(tmp_path, "val/loss"), Damages()
    with pytest.raises(ValueError, match=r"best\.ckpt was changed since it was written"):
        trainer(tmp_path, *callbacks, plugins=[AtomicCheckpoints()], enable_checkpointing=True).fit(
            Overconfident(), Data()
        )


def test_the_test_shows_before_and_after(tmp_path):
    logger = CSVLogger(tmp_path, name="logs", version=0)
    callback, module = PostHocCalibration(), Overconfident()
    fitter = trainer(tmp_path, callback, logger=logger)
    fitter.fit(module, Data())
    (results,) = fitter.test(module, Data(), verbose=False)
    raw, target = logits(module, "test")
    for part, values in (("before", raw), ("after", callback.calibrator(raw))):
        for name, value in calibration_summary(values, target, inputs="logits").items():
            assert results[f"test/calibration/{part}/{name}"] == pytest.approx(float(value), rel=1e-5, abs=1e-7)
    assert results["test/calibration/after/nll"] < results["test/calibration/before/nll"]
    assert results["test/calibration/after/accuracy"] == results["test/calibration/before/accuracy"]
    assert (tmp_path / "logs/version_0/figures/test/calibration/reliability.png").is_file()


def test_before_a_fit_it_tests_nothing(tmp_path):
    (results,) = trainer(tmp_path, PostHocCalibration()).test(Overconfident(), Data(), verbose=False)
    assert results == {}


def test_a_resumed_fit_ends_with_the_same_calibrator_and_carries_nothing_along(tmp_path):
    whole, module = PostHocCalibration(DirichletCalibration), Overconfident()
    trainer(tmp_path / "whole", whole).fit(module, Data())
    half = trainer(tmp_path / "half", PostHocCalibration(DirichletCalibration), max_epochs=1)
    half.fit(Overconfident(), Data())
    half.save_checkpoint(tmp_path / "half.ckpt")
    assert "PostHocCalibration" not in str(torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"])
    torch.manual_seed(0)
    resumed = PostHocCalibration(DirichletCalibration)
    again = Overconfident()
    # Dropout draws anew: what must agree is the calibrator with the weights that it belongs to.
    trainer(tmp_path / "half", resumed).fit(again, Data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    expected = DirichletCalibration().fit(*logits(again, "val"))
    torch.testing.assert_close(resumed.calibrator.weight, expected.weight)


def test_the_modules_modes_are_restored(tmp_path):
    module = Overconfident()
    trainer(tmp_path, PostHocCalibration()).fit(module, Data())
    alone = Overconfident()
    trainer(tmp_path).fit(alone, Data())
    assert [child.training for child in module.modules()] == [child.training for child in alone.modules()]


def test_no_validation_data_is_refused_at_the_start(tmp_path):
    with pytest.raises(ValueError, match="PostHocCalibration: the trainer has no validation data"):
        trainer(tmp_path, PostHocCalibration(), limit_val_batches=0).fit(Overconfident(), Data())


def test_another_thing_than_a_calibrator_is_refused():
    with pytest.raises(ValueError, match="gave a Linear"):
        PostHocCalibration(lambda: torch.nn.Linear(2, 2))


@pytest.mark.distributed
def test_two_processes_hold_the_calibrator_of_one(tmp_path):
    def run(strategy):
        callback = PostHocCalibration(VectorScaling)
        fitter = trainer(tmp_path, callback, max_steps=1, **strategy)
        module = Overconfident()
        # The same step on one and on two processes: none.
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
        fitter.fit(module, Data())
        torch.save(callback.calibrator.state_dict(), tmp_path / f"{fitter.world_size}_{fitter.global_rank}.pt")

    for processes in (1, 2):
        on_processes(run, processes)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    for name, value in one.items():
        assert torch.equal(first[name], second[name])
        # Batches are cut elsewhere, so that the logits differ by rounding.
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)


SGD = functools.partial(torch.optim.SGD, lr=1.0)


class WithPartial(Overconfident):
    def __init__(self, optimizer=SGD):
        super().__init__()
        self.save_hyperparameters()


class WithoutPredictions(Overconfident):
    predict_step = L.LightningModule.predict_step


def predicting(logits, target):
    """A module that predicts this."""

    class Predicting(Overconfident):
        def predict_step(self, batch, batch_idx):
            return {"logits": logits, "target": target}

    return Predicting()


def gone(folder):
    last = LastCheckpoint(folder, monitor="val/loss")
    # As a run is that was copied without its checkpoints.
    last.best = 1.0
    return last


ONES = torch.ones(16, dtype=torch.long)


@pytest.mark.parametrize(
    ("module", "callbacks", "message"),
    [
        (WithPartial, lambda folder: [ModelCheckpoint(folder, "best", monitor="val/loss")],
         r"hyperparameter 'optimizer', a partial, .* weights='last'"),
        (WithPartial, lambda folder: [LastCheckpoint(folder, monitor="val/loss")],
         r"hyperparameter 'optimizer', a partial, .* weights='last'"),
        (WithoutPredictions, lambda folder: [], "WithoutPredictions has no predict_step"),
        (lambda: predicting(torch.zeros(16, 1), ONES), lambda folder: [],
         r"logits of shape \[16, 1\] and a target of shape \[16\]; return logits \[batch, C\]"),
        (lambda: predicting(torch.zeros(16), ONES), lambda folder: [PostHocCalibration(VectorScaling)],
         r"logits of shape \[16\] and a target of shape \[16\]"),
        (lambda: predicting(torch.zeros(8, 3), ONES), lambda folder: [], r"logits of shape \[8, 3\]"),
        (lambda: predicting(torch.zeros(16, 3), None), lambda folder: [], "types torch.float32 and NoneType"),
        (Overconfident, lambda folder: [PostHocCalibration(dataloader_idx=1)], "no data loader 1 to predict"),
        (Overconfident, lambda folder: [PostHocCalibration(folder=__file__)], "Not a directory"),
        (Overconfident, lambda folder: [gone(folder)], r"best checkpoint so far, .*best.ckpt, is gone"),
    ],
)  # fmt: skip
def test_what_the_end_needs_is_checked_before_the_first_step(tmp_path, module, callbacks, message):
    others = callbacks(tmp_path)
    own = [] if any(isinstance(one, PostHocCalibration) for one in others) else [PostHocCalibration()]
    fitter = trainer(tmp_path, *own, *others, enable_checkpointing=True)
    with pytest.raises((ValueError, OSError), match=message):
        fitter.fit(module(), Data())
    assert fitter.global_step == 0


def test_the_last_weights_are_calibrated_by_choice(tmp_path):
    best = ModelCheckpoint(tmp_path / "kept", "best", monitor="val/loss")
    callback, module = PostHocCalibration(weights="last"), WithPartial()
    trainer(tmp_path, callback, best, enable_checkpointing=True).fit(module, Data())
    expected = TemperatureScaling().fit(*logits(module, "val")).temperature
    torch.testing.assert_close(callback.calibrator.temperature, expected)
    assert callback.path.name == "last.calibrator.safetensors"
