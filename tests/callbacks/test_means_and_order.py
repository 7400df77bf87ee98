"""What callbacks measure is of the samples that have a target; a place that would change what they see is refused."""

import copy
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses import MCMI, CrossEntropy, Objective, Term
from lightning_losses.calibrators import LogitAdjuster, TemperatureScaling
from lightning_losses.callbacks import (
    AdaFocalBins,
    CalibrationMonitor,
    ClassCentroids,
    EmpiricalNTK,
    GradientConflict,
    Grokfast,
    GrokkingMonitor,
    HessianSpectrum,
    InformationPlane,
    LearningRateSensitivity,
    LinearModeConnectivity,
    MetricsFile,
    MixupConfiguration,
    NeuralCollapse,
    NumericsGuard,
    OpposingSignals,
    OrthogonalGradient,
    OutputLogits,
    PostHocCalibration,
    WeightAligning,
    WeightNormProjection,
)
from lightning_losses.callbacks.monitors.continual_evaluation import ContinualEvaluation
from lightning_losses.checkpoints import EpochSeed
from lightning_losses.losses import AdaFocal
from lightning_losses.modules import Classifier
from lightning_losses.modules.ensemble_classifier import EnsembleClassifier
from lightning_losses.teachers import TeacherEnsemble


def batch(seed=0, rows=12, ignored=()):
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(rows) % 3
    target[list(ignored)] = -100
    return {"inputs": torch.randn(rows, 4, generator=generator), "target": target}


def dropped(full):
    kept = full["target"] != -100
    return {name: value[kept] for name, value in full.items()}


def module(**terms):
    torch.manual_seed(1)
    return Classifier(
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), Objective({"ce": CrossEntropy(), **terms}), 3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1),
    )  # fmt: skip


def fit(callbacks, batches, model=None, **options):
    model = model or module()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=callbacks, **options,
    )  # fmt: skip
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(model, loader, loader)
    return trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_training_loss_of_the_grokking_monitor_is_the_mean_over_kept_samples(accumulate):
    batches = [batch(0, 8, ignored=range(6)), batch(1, 5)]
    monitor = GrokkingMonitor("loss", train_batches=2)
    model = module()
    model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, 0.0)
    fit([monitor], batches, model, accumulate_grad_batches=accumulate)
    inputs, target = (torch.cat([one[name] for one in batches]) for name in ("inputs", "target"))
    wanted = F.cross_entropy(model.network(inputs), target).item()
    assert [value for _, value in monitor.train] == [pytest.approx(wanted, rel=1e-6)]


class Named(TensorDataset):
    def __getitem__(self, place):
        inputs, target = super().__getitem__(place)
        return {"inputs": inputs, "target": target}


def marked(full, mark):
    """A batch whose ignored samples have another mark: an index, or probabilities of 0."""
    target, kept = full["target"], full["target"] != -100
    if mark == "zeros":
        return {**full, "target": F.one_hot(target.clamp(min=0), 3).float() * kept.unsqueeze(1)}
    return {**full, "target": target.masked_fill(~kept, int(mark))}


def measured(full, mark, folder):
    """All that the callbacks measure, keep and set, in one epoch of one batch that changes no weight."""
    ignored = -100 if mark == "zeros" else int(mark)
    terms = {"ce": CrossEntropy(ignore_index=ignored), "mcmi": Term(MCMI(num_classes=3, ignore_index=ignored), 0.1)}
    if mark != "zeros":
        terms["adafocal"] = AdaFocal(ignore_index=ignored, num_bins=2)
    model = module(**terms)
    model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, 0.0)
    task = (full["inputs"], full["target"])
    callbacks = [
        GrokkingMonitor(),
        OutputLogits(every_n_steps=1),
        HessianSpectrum(samples=6, every_n_steps=1, lanczos_steps=3, trace_probes=2),
        NeuralCollapse("network.2"),
        ContinualEvaluation([task], current=lambda trainer: 0, every_n_steps=1),
        ClassCentroids(),
        CalibrationMonitor(num_bins=3, every_n_epochs=0),
        PostHocCalibration(TemperatureScaling, folder, weights="last"),
        *([] if mark == "zeros" else [AdaFocalBins()]),
    ]
    data = Named(full["inputs"], full["target"])
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, len(data)), DataLoader(data, len(data)))
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for callback in callbacks:
        kept = {**getattr(callback, "values", {}), **{name: getattr(callback, name, []) for name in ("train", "val")}}
        values |= {
            f"{type(callback).__name__}/{key}": torch.tensor(value, dtype=torch.float64) for key, value in kept.items()
        }
    values["centroids"] = model.objective.terms["mcmi"].loss.centroids
    values["temperature"] = callbacks[7].calibrator.temperature
    return values


@pytest.mark.parametrize("mark", ["255", "1", "zeros"])
def test_every_callback_asks_the_module_which_samples_count(mark, tmp_path):
    whole = batch(0, 12, ignored=[0, 1, 2, 4, 7, 9, 10])
    with_them, without = (measured(marked(one, mark), mark, tmp_path) for one in (whole, dropped(whole)))
    assert with_them.keys() == without.keys() and len(with_them) > 30
    for name, value in without.items():
        torch.testing.assert_close(with_them[name], value, rtol=1e-4, atol=1e-6, equal_nan=True, msg=name)


@pytest.mark.parametrize(
    ("callback", "train", "sentence"),
    [
        (lambda: PostHocCalibration(weights="last"), True, "PostHocCalibration: no sample of the validation data has a "
         "target to fit on; give data with targets."),
        (lambda: NeuralCollapse("network.2"), False, "neural_collapse: no sample of the training data has a target; "
         "give data with targets, or leave this callback out."),
    ],
    ids=["calibration", "collapse"],
)  # fmt: skip
def test_data_without_a_target_are_refused_after_the_first_pass_over_them(callback, train, sentence):
    given, nothing = [batch(0, 4)], [batch(0, 4, ignored=range(4))]
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=1, callbacks=[callback()],
    )  # fmt: skip
    loaders = (DataLoader(one, batch_size=None) for one in ((given, nothing) if train else (nothing, given)))
    with pytest.raises(ValueError) as raised:
        trainer.fit(module(), *loaders)
    assert str(raised.value) == sentence and trainer.current_epoch == 0


def test_a_later_batch_with_targets_is_one_to_calibrate_on(tmp_path):
    callback = PostHocCalibration(folder=tmp_path, weights="last")
    loaders = (DataLoader([batch(0, 4, ignored=range(4)), batch(0, 4)], batch_size=None) for _ in range(2))
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=1, callbacks=[callback],
    )  # fmt: skip
    trainer.fit(module(), *loaders)
    assert callback.calibrator.fitted


def test_a_validation_without_a_target_ends_no_fit():
    monitor = GrokkingMonitor()
    fit([monitor], [batch(0, 4, ignored=range(4))])
    assert monitor.val == []
    with pytest.raises(ValueError, match="^grokking: validation logged .*, not 'val/other'; log it"):
        fit([GrokkingMonitor(val_metric="val/other")], [batch(0, 4)])


def test_what_keeps_no_sample_is_not_measured():
    nothing = batch(0, 4, ignored=range(4))
    monitors = [GrokkingMonitor(), OutputLogits(every_n_steps=1), HessianSpectrum(every_n_steps=1, lanczos_steps=3)]
    fit(monitors, [nothing])
    assert all(not monitor.steps and not monitor.values for monitor in monitors) and not monitors[0].train
    assert fit([CalibrationMonitor()], [nothing]).callback_metrics == {}
    with pytest.raises(ValueError, match="continual: task 0 has no sample with a target but -100"):
        task = (nothing["inputs"], nothing["target"])
        fit([ContinualEvaluation([task], current=lambda trainer: 0)], [batch(0)])


@pytest.mark.parametrize(
    ("callbacks", "sentence"),
    [
        ([Grokfast(), NumericsGuard()], "NumericsGuard: it comes after Grokfast .* put it before"),
        ([OrthogonalGradient(), NumericsGuard()], "NumericsGuard: it comes after OrthogonalGradient"),
        ([NumericsGuard(), EpochSeed()], "NumericsGuard: it comes before EpochSeed .* put it after"),
        ([LearningRateSensitivity(), EpochSeed()], "LearningRateSensitivity: it comes before EpochSeed"),
        (
            [WeightAligning("network.2", 1), NeuralCollapse("network.2")],
            "NeuralCollapse: it comes after WeightAligning in the trainer's callbacks, which changes what it "
            "measures; put it before.$",
        ),
        (
            [OrthogonalGradient(), Grokfast()],
            "OrthogonalGradient: it comes before Grokfast in the trainer's callbacks, "
            "which would add back what it removes; put it after.$",
        ),
        (
            [ClassCentroids(), WeightNormProjection()],
            "WeightNormProjection: it comes after ClassCentroids in the "
            "trainer's callbacks, which evaluates the weights before they are scaled; put it before.$",
        ),
    ],
)
def test_a_place_that_changes_what_a_callback_sees_is_refused(callbacks, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        fit(callbacks, [batch()])
    fit(callbacks[::-1], [batch()])


@pytest.mark.parametrize(
    "monitor",
    [
        EmpiricalNTK(),
        HessianSpectrum(),
        InformationPlane(["layer"]),
        LinearModeConnectivity(),
        MixupConfiguration("head"),
        NeuralCollapse("head"),
        OpposingSignals(),
    ],
    ids=lambda monitor: monitor.name,
)
def test_tokens_are_refused_with_the_first_batch(monitor):
    tokens = {"inputs": torch.zeros(2, 6), "target": torch.zeros(2, 6, dtype=torch.int64)}
    with pytest.raises(ValueError) as raised:
        monitor.on_train_batch_start(SimpleNamespace(global_step=0), nn.Linear(6, 3), tokens, 0)
    assert str(raised.value) == (
        f"{monitor.name}: a target of shape [2, 6] came; it measures samples of one class index each, so leave it out "
        "of the training of a language model."
    )


def test_a_loss_of_tokens_may_be_given():
    assert HessianSpectrum(loss=nn.MSELoss()).takes_tokens and LinearModeConnectivity(loss=nn.MSELoss()).takes_tokens


def test_what_is_watched_where_no_step_is_known_is_refused_in_the_monitors_name():
    ensemble = EnsembleClassifier(
        network=TeacherEnsemble([nn.Linear(4, 3), nn.Linear(4, 3)]), objective=Objective({"ce": CrossEntropy()}),
        num_classes=3,
    )  # fmt: skip
    with pytest.raises(ValueError) as raised:
        fit([GradientConflict(every_n_steps=1)], [batch()], ensemble)
    assert str(raised.value) == (
        "EnsembleClassifier: an objective that GradientConflict watches was evaluated twice in a batch, which would "
        "give each term two gradients; evaluate it once, on all samples."
    )


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (
            lambda place: NumericsGuard(folder=place / "file" / "batches"),
            "[Errno 20] Not a directory: '{place}/file'",
        ),
        (
            lambda place: MetricsFile(place / "file" / "metrics.jsonl"),
            "[Errno 20] Not a directory: '{place}/file'",
        ),
        (
            lambda place: WeightAligning("network.2", new_classes=4),
            "weight_aligning: new_classes=4 came with a weight of shape [3, 5]; give [classes, D] and at most as many "
            "new classes.",
        ),
        (
            lambda place: GrokkingMonitor(),
            "grokking: the trainer has no validation data to measure; give a validation data loader, a "
            "validation_step, and limit_val_batches above 0.",
        ),
    ],
    ids=["guard", "metrics", "aligning", "grokking"],
)
def test_what_a_callback_needs_at_its_end_is_asked_for_at_the_start(tmp_path, callback, sentence):
    (tmp_path / "file").touch()
    model, first = module(), copy.deepcopy(module().state_dict())
    with pytest.raises((ValueError, OSError)) as raised:
        fit([callback(tmp_path)], [batch()], model, limit_val_batches=0)
    assert str(raised.value) == sentence.format(place=tmp_path)
    # Nothing was trained for nothing.
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_a_calibrator_needs_a_place_though_none_was_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        fit([PostHocCalibration()], [batch()], default_root_dir=tmp_path / "file")


def test_a_calibrator_without_its_counts_is_refused_before_the_first_step(tmp_path):
    model, first = module(), copy.deepcopy(module().state_dict())
    with pytest.raises(ValueError) as raised:
        fit([PostHocCalibration(LogitAdjuster, tmp_path)], [batch()], model)
    assert str(raised.value) == (
        "LogitAdjuster: it is fitted to the counts of the training set, and has none; give class_counts=[...], a "
        "number for each class, or the trainer the callback ClassCounts."
    )
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
