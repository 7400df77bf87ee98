import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_losses import CrossEntropy, LogitAdjustment, Objective, ObjectiveMixin
from lightning_losses.callbacks.companions.class_counts import ClassCounts
from lightning_losses.losses.class_prior import ClassPrior
from lightning_losses.modules import Classifier

TARGET = torch.tensor([0, 2, 2, 255, 0, 2, 1, 1, 2])
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
]


class Hidden(Dataset):
    """Tells a target only with its sample."""

    def __init__(self):
        self.loaded = []

    def __len__(self):
        return len(TARGET)

    def __getitem__(self, position):
        self.loaded.append(position)
        return torch.zeros(2), TARGET[position]


def module():
    classifier = Classifier(nn.Linear(2, 4), Objective({"ce": CrossEntropy(ignore_index=255)}), num_classes=4)
    classifier.prior, classifier.given = ClassPrior("prior"), ClassPrior("given", [1, 2, 3])
    return classifier


def fit(dataset, callback, model=None, ckpt_path=None, batch_size=3, steps=1, **options):
    model = module() if model is None else model
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=steps,
        enable_model_summary=False, limit_val_batches=0, callbacks=[callback], **options,
    )  # fmt: skip
    trainer.fit(model, DataLoader(dataset, batch_size), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("held", [True, False], ids=["held", "hidden"])
def test_every_sample_counts_once_and_a_resumed_run_counts_nothing_again(tmp_path, held, monkeypatch):
    dataset = TensorDataset(torch.zeros(len(TARGET), 2), TARGET) if held else Hidden()
    model, callback = module(), ClassCounts(num_classes=4)
    trainer = fit(dataset, callback, model)
    assert callback.counts.tolist() == model.prior.counts.tolist() == [2, 2, 4, 0]
    assert model.given.counts.tolist() == [1, 2, 3]
    if not held:
        # The pass, and the batch of the step.
        assert sorted(dataset.loaded) == sorted([*range(len(TARGET)), *range(3)])
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    again, resumed = module(), ClassCounts()
    monkeypatch.setattr(ClassCounts, "_counted", None)
    fit(dataset, resumed, again, tmp_path / "some.ckpt", steps=2)
    assert resumed.counts.tolist() == again.prior.counts.tolist() == [2, 2, 4, 0]


@pytest.mark.distributed
def test_processes_have_the_counts_of_all():
    """The first process sees another largest class than the second; of targets that are held each counts all."""

    class Both(ClassCounts):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            assert self.counts.tolist() == pl_module.prior.counts.tolist() == [2, 2, 4]
            trainer.train_dataloader.dataset.targets = TARGET
            assert self._counted(trainer, pl_module).tolist() == [2, 2, 4]

    fit(Hidden(), Both(), devices=2, strategy=DDPStrategy(start_method="fork", process_group_backend="gloo"))


class Validated(ObjectiveMixin, L.LightningModule):
    """Evaluates its objective in validation too."""

    def __init__(self):
        super().__init__()
        self.network, self.objective = nn.Linear(2, 3), Objective({"la": LogitAdjustment()})

    def training_step(self, batch, batch_idx):
        return self.apply_objective(logits=self.network(batch[0]), target=batch[1])

    def validation_step(self, batch, batch_idx):
        return self.apply_objective(logits=self.network(batch[0]), target=batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
def test_counts_are_known_in_the_sanity_check():
    loader = DataLoader(TensorDataset(torch.zeros(4, 2), torch.tensor([0, 2, 2, 1])), 2)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=1,
        enable_model_summary=False, num_sanity_val_steps=1, callbacks=[ClassCounts()],
    )  # fmt: skip
    trainer.fit(model := Validated(), loader, loader)
    assert model.objective.terms["la"].loss.prior.counts.tolist() == [1, 1, 2]


def test_a_training_set_without_targets_is_refused():
    with pytest.raises(ValueError) as raised:
        fit(TensorDataset(torch.zeros(4, 2), torch.full((4,), 255)), ClassCounts())
    assert str(raised.value) == "ClassCounts: no sample of the training set has a target; give data with targets."
