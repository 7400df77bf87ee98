import copy

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_losses.callbacks import LinearEvaluation
from lightning_losses.diagnostics.linear_heads import class_moments, gaussian_nb_head, logistic_head
from tests.callbacks.training import PerProcess, Tiny, batches, trainer


class Called(Tiny):
    def forward(self, inputs):
        return self.network(inputs)


class Clustered(PerProcess):
    """Training rows, two of them without a target; other rows to validate on."""

    def train_dataloader(self):
        return DataLoader(self.data[0], batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.data[1], batch_size=None)


def data():
    train, val = batches(3), batches(7)[3:]
    train[1][1][[0, 4]] = -100
    return train, val


def fit(folder, *monitors, given=None, **options):
    module = Called()
    fitter = trainer(folder, list(monitors), limit_val_batches=1.0, num_sanity_val_steps=0, **options)
    fitter.fit(module, Clustered(given or data()))
    return module.network


@pytest.mark.parametrize("head", ["nb", "logistic"])
def test_it_measures_the_head_of_the_layers_features_and_changes_nothing(tmp_path, head):
    monitor = LinearEvaluation("network.1", 3, head, samples=20)
    network = fit(tmp_path, monitor)
    plain = fit(tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), plain.parameters(), strict=True))
    body, (train, val) = copy.deepcopy(network[:2]).requires_grad_(False), data()
    inputs, target = (torch.cat(parts) for parts in zip(*train, strict=True))
    inputs, target = inputs[target >= 0][:20], target[target >= 0][:20]
    fitted = (
        gaussian_nb_head(class_moments(body(inputs), target, 3))
        if head == "nb"
        else logistic_head(body(inputs), target, 3)
    )
    right = torch.cat([fitted.logits(body(x)).argmax(dim=1) == y for x, y in val])
    assert monitor.values == {f"{head}_accuracy": [pytest.approx(float(right.double().mean()))]}
    assert monitor.steps == [3]


@pytest.mark.parametrize(
    ("monitor", "change", "options", "message"),
    [
        (
            LinearEvaluation("network.7", 3),
            None,
            {},
            "linear_evaluation: ['network.7'] came, but Called has no such layers; its layers are network, network.0, "
            "network.1, network.2.",
        ),
        (
            LinearEvaluation("network.1", 2),
            None,
            {},
            "linear_evaluation: class_moments: targets from 0 to 2 came for 2 classes; give 0 to 1.",
        ),
        (
            LinearEvaluation("network.1", 3),
            -100,
            {},
            "linear_evaluation: no sample of the training data has a target; give data with targets, or leave this "
            "callback out.",
        ),
        (
            LinearEvaluation("network.1", 3),
            None,
            {"check_val_every_n_epoch": 2},
            "linear_evaluation: there was no validation before this epoch's end; let every_n_epochs be a multiple of "
            "the trainer's check_val_every_n_epoch.",
        ),
    ],
    ids=["layer", "classes", "no target", "no validation yet"],
)
def test_what_it_can_not_measure_is_refused(tmp_path, monitor, change, options, message):
    given = data()
    if change is not None:
        for _, target in given[0]:
            target.fill_(change)
    with pytest.raises(ValueError) as error:
        fit(tmp_path, monitor, given=given, **options)
    assert str(error.value) == message
