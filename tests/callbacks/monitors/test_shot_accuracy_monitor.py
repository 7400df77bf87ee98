import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses.callbacks import ClassCounts, ShotAccuracyMonitor
from lightning_losses.metrics import balanced_accuracy, shot_accuracy
from tests.callbacks.training import PerProcess, Tiny, batches, trainer

# Three classes of 6, 3 and 1 samples.
TARGET = torch.tensor([0, 1, 0, 2, 0, 1, 0, 1, 0, 0])


class Tailed(PerProcess):
    def train_dataloader(self):
        inputs = torch.randn(10, 5, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(inputs, TARGET), batch_size=5)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=None)


def fit(folder, *callbacks, **options):
    data, module = batches(4), Tiny()
    data[1][1][:3] = -100
    trainer(folder, list(callbacks), limit_val_batches=1.0, max_epochs=2, **options).fit(module, Tailed(data))
    inputs, target = (torch.cat(parts) for parts in zip(*data, strict=True))
    return module.network(inputs).argmax(dim=-1)[target >= 0], target[target >= 0]


# The monitor comes before the callback that counts, too.
@pytest.mark.parametrize("counted_first", [True, False])
def test_it_groups_the_classes_by_what_class_counts_counted(tmp_path, counted_first):
    monitor = ShotAccuracyMonitor(many=5, few=2, folder=tmp_path)
    callbacks = [ClassCounts(), monitor] if counted_first else [monitor, ClassCounts()]
    prediction, target = fit(tmp_path, *callbacks)
    expected = shot_accuracy(prediction, target, [6, 3, 1], many=5, few=2)._asdict()
    expected["balanced"] = balanced_accuracy(prediction, target, 3)
    assert monitor.steps == [2, 4] and monitor.values.keys() == expected.keys()
    assert {name: values[-1] for name, values in monitor.values.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}
    )
    assert len({value.item() for value in expected.values()}) == 4 and (tmp_path / "shot_accuracy.png").is_file()


def test_a_group_without_classes_is_left_out(tmp_path):
    monitor = ShotAccuracyMonitor(class_counts=[400, 300, 50])
    fit(tmp_path, monitor)
    assert monitor.values.keys() == {"many", "medium", "balanced"}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ShotAccuracyMonitor(),
         "shot_accuracy: no class counts are known; give class_counts=[...], a number for each class, or the trainer "
         "the callback ClassCounts, which counts the training set."),
        (lambda: ShotAccuracyMonitor(class_counts=[3, 1]),
         "shot_accuracy: logits of 3 classes came with class_counts of 2; give one number for each class."),
        (lambda: ShotAccuracyMonitor(many=10),
         "shot_accuracy: few=20 came with many=10; give a number of few that is at most many."),
    ],
    ids=["unknown", "number", "limits"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, make, told):
    with pytest.raises(ValueError) as raised:
        fit(tmp_path, make())
    assert str(raised.value) == told
