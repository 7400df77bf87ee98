"""What callbacks measure is of the samples that have a target; a place that would change what they see is refused."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import MCMI, CrossEntropy, Objective, Term
from lightning_losses.callbacks import (
    ClassCentroids,
    Grokfast,
    GrokkingMonitor,
    HessianSpectrum,
    LearningRateSensitivity,
    NeuralCollapse,
    NumericsGuard,
    OrthogonalGradient,
)
from lightning_losses.callbacks.monitors.continual_evaluation import ContinualEvaluation
from lightning_losses.checkpoints import EpochSeed
from lightning_losses.modules import Classifier


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


@pytest.mark.parametrize(
    "make",
    [
        lambda: HessianSpectrum(samples=6, every_n_steps=1, lanczos_steps=3, trace_probes=2),
        lambda: NeuralCollapse("network.2"),
    ],
    ids=["probe", "neural collapse"],
)
def test_rows_without_a_target_are_as_if_they_were_not_there(make):
    batches = [batch(0, ignored=[0, 3, 4]), batch(1, ignored=[1])]
    with_them, without = make(), make()
    fit([with_them], batches)
    fit([without], [dropped(one) for one in batches])
    assert with_them.values.keys() == without.values.keys() and with_them.values
    for name, values in without.values.items():
        assert with_them.values[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name


def test_the_accuracy_on_a_task_is_that_of_its_targets():
    full = batch(2, ignored=[0, 1, 2, 3])
    with_them, without = (
        ContinualEvaluation([(one["inputs"], one["target"])], current=lambda trainer: 0, every_n_steps=1)
        for one in (full, dropped(full))
    )
    for monitor in (with_them, without):
        fit([monitor], [batch(0)])
    assert with_them.values["accuracy/0"] == without.values["accuracy/0"] != [0.0]


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


def test_the_information_is_the_mean_over_kept_samples():
    from torch.utils.data import TensorDataset

    class Named(TensorDataset):
        def __getitem__(self, place):
            inputs, target = super().__getitem__(place)
            return {"inputs": inputs, "target": target}

    values = []
    for full in (batch(0, 12, ignored=[0, 1, 2, 9]), dropped(batch(0, 12, ignored=[0, 1, 2, 9]))):
        model = module(mcmi=Term(MCMI(num_classes=3), 0.1))
        model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, 0.0)
        data = Named(full["inputs"], full["target"])
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
            enable_model_summary=False, num_sanity_val_steps=0, callbacks=[ClassCentroids()],
        )  # fmt: skip
        trainer.fit(model, DataLoader(data, 5), DataLoader(data, 5))
        values.append(float(trainer.callback_metrics["train/cmi"]))
        values.append(model.objective.terms["mcmi"].loss.centroids.clone())
    assert values[0] == pytest.approx(values[2], rel=1e-5)
    torch.testing.assert_close(values[1], values[3])


@pytest.mark.parametrize(
    ("callbacks", "sentence"),
    [
        ([Grokfast(), NumericsGuard()], "NumericsGuard: it stands after Grokfast .* put it before"),
        ([OrthogonalGradient(), NumericsGuard()], "NumericsGuard: it stands after OrthogonalGradient"),
        ([NumericsGuard(), EpochSeed()], "NumericsGuard: it stands before EpochSeed .* put it after"),
        ([LearningRateSensitivity(), EpochSeed()], "LearningRateSensitivity: it stands before EpochSeed"),
    ],
)
def test_a_place_that_changes_what_a_callback_sees_is_refused(callbacks, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        fit(callbacks, [batch()])
    fit(callbacks[::-1], [batch()])
