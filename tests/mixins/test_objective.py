"""The objective inside a LightningModule."""

import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import CrossEntropy, Hill, Objective, ObjectiveMixin, Term
from lightning_losses.objective import Linear


class Plain(ObjectiveMixin, L.LightningModule):
    def __init__(self, weight=1.0):
        super().__init__()
        self.network = nn.Linear(4, 3)
        self.objective = Objective({"ce": Term(CrossEntropy(), weight)})
        self.clocks = []

    def training_step(self, batch, batch_idx):
        self.clocks.append(self.training_clock())
        inputs, target = batch
        return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module, **options):
    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.arange(8) % 3)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    return trainer


def test_clock_counts_steps_progress_and_epochs():
    module = Plain()
    fit(module, max_epochs=2)
    assert [clock["step"] for clock in module.clocks] == [0, 1, 2, 3]
    assert [clock["progress"] for clock in module.clocks] == [0.0, 0.25, 0.5, 0.75]
    assert [clock["epoch_progress"] for clock in module.clocks] == [0.5, 0.5, 1.0, 1.0]
    assert [clock["epoch"] for clock in module.clocks] == [0, 0, 1, 1]


def test_parts_and_total_are_logged_under_their_names():
    trainer = fit(Plain(weight=2.0), max_epochs=1)
    assert {"train/objective", "train/objective/ce"} <= set(trainer.callback_metrics)
    torch.testing.assert_close(
        trainer.callback_metrics["train/objective"], 2 * trainer.callback_metrics["train/objective/ce"]
    )


def test_a_step_that_training_and_test_share_weighs_at_the_end_of_a_schedule_in_test_alone():
    class Shared(Plain):
        test_step = Plain.training_step

    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.arange(8) % 3)
    tester = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    (found,) = tester.test(Shared(weight=Linear(0.0, 2.0)), torch.utils.data.DataLoader(data, batch_size=4))
    assert found["test/objective"] == pytest.approx(2 * found["test/objective/ce"]) and found["test/objective"] > 0


def test_schedule_without_an_end_of_training_is_refused():
    with pytest.raises(ValueError, match=r"set max_steps \(or max_epochs, where the loader has a length\)"):
        fit(Plain(weight=Linear(0.0, 1.0)), max_epochs=-1, max_time={"seconds": 20})


def test_labels_are_made_of_classes_for_losses_of_many_labels():
    module = Plain()
    module.objective = Objective({"hill": Hill(ignore_index=7)})
    target = torch.tensor([1, 7, 0])
    step = module.training_step((torch.randn(3, 4), target), 0)
    kept = torch.tensor([0, 2])
    logits = step["logits"].detach()[kept]
    torch.testing.assert_close(step["loss"].detach(), Hill()(logits, torch.eye(logits.shape[-1])[target[kept]]))


def test_step_returns_its_tensors_under_glossary_names():
    output = Plain().training_step((torch.randn(2, 4), torch.tensor([0, 1])), 0)
    assert set(output) == {"loss", "inputs", "logits", "target"}
