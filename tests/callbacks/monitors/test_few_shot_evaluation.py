import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses.callbacks import FewShotEvaluation
from lightning_losses.callbacks.monitors.evaluation import LayerRows
from lightning_losses.transduction import LaplacianKMeans
from tests.callbacks.training import Tiny, trainer


class Calling(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


def accuracies(folder, apart, precision="32-true", **options):
    random = torch.Generator().manual_seed(0)
    target = torch.arange(80) % 4
    data = TensorDataset(torch.randn(80, 5, generator=random) + apart * torch.eye(5)[target], target % 3)
    watching = FewShotEvaluation("network.0", **{"ways": 3, "queries": 8, "episodes": 20, **options})
    fitter = trainer(
        folder, [watching], limit_val_batches=1.0, num_sanity_val_steps=0, max_epochs=2, precision=precision
    )
    module = Calling(lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    fitter.fit(module, DataLoader(data, 20), DataLoader(data, 20))
    (first, second), (own, other) = watching.values["accuracy"], watching.values["transductive_accuracy"]
    # The same weights, and the same episodes.
    assert first == pytest.approx(second) and own == pytest.approx(other)
    return first, own


def test_without_classes_it_is_chance_and_clear_classes_are_found(tmp_path):
    nearest, together = accuracies(tmp_path, 0.0, episodes=60)
    assert abs(nearest - 1 / 3) < 0.05 and abs(together - 1 / 3) < 0.05
    nearest, together = accuracies(tmp_path, 4.0)
    # A class of two parts is not found as one from one sample of one part.
    assert 0.75 < nearest < 1 and together > 0.75


def test_the_method_and_the_shots_are_those_that_are_given(tmp_path):
    few = accuracies(tmp_path, 1.5)
    many = accuracies(tmp_path, 1.5, shots=5)
    assert many[0] > few[0] and many[1] > few[1]
    assert accuracies(tmp_path, 1.5, method=LaplacianKMeans(0.0))[1] != few[1]


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_inputs_come_in_the_precision_of_the_run(tmp_path, precision):
    assert accuracies(tmp_path, 4.0, precision) == pytest.approx(accuracies(tmp_path, 4.0), abs=0.05)


def test_too_few_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 classes of the validation data have 9 samples; give at least 4"):
        accuracies(tmp_path, 1.0, ways=4)


def test_features_that_diverged_have_no_accuracy(monkeypatch):
    monitor = FewShotEvaluation("network.0", ways=2, queries=1)
    rows = LayerRows({"network.0": torch.full((8, 3), torch.nan)}, torch.arange(8) % 2)
    monkeypatch.setattr(monitor, "rows_of_validation", lambda *_: rows)
    assert all(math.isnan(value) for value in monitor.evaluate(None, None, None).values())
