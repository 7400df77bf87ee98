"""What is logged: the same mean over all samples, under the stage's name, beside what a project logs itself."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses import CrossEntropy, Objective, ObjectiveMixin, OnlineDistillationMixin, Term
from lightning_losses.objective import WarmUp


class Shared(ObjectiveMixin, L.LightningModule):
    """One step for training, validation and test, as many projects have it."""

    def __init__(self, weight=1.0, **terms):
        super().__init__()
        torch.manual_seed(1)
        self.network = nn.Linear(4, 3)
        self.objective = Objective({"ce": Term(CrossEntropy(), weight), **terms})

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)

    validation_step = test_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def data(seed, rows=10, ignored=()):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (rows,), generator=generator)
    target[list(ignored)] = -100
    return torch.randn(rows, 4, generator=generator), target


def loader(seed, **options):
    # The last batch is short.
    return DataLoader(TensorDataset(*data(seed, **options)), batch_size=4)


def trainer(**options):
    return L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def expected(module, seed, **options):
    inputs, target = data(seed, **options)
    return F.cross_entropy(module.network(inputs), target).item()


def test_a_step_that_stages_share_logs_each_stage_by_its_name():
    module, run = Shared(), trainer()
    run.fit(module, loader(1, ignored=[0, 1, 2, 8]), loader(2, ignored=[4, 5, 6, 7]))
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert logged == {
        name: pytest.approx(expected(module, seed, ignored=ignored), rel=1e-6)
        for stage, seed, ignored in (("train", 1, [0, 1, 2, 8]), ("val", 2, [4, 5, 6, 7]))
        for name in (f"{stage}/objective", f"{stage}/objective/ce")
    }


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_stage_alone_needs_no_training_data_and_no_clock(stage):
    module = Shared()
    found = getattr(trainer(), stage)(module, loader(2), verbose=False)[0]
    prefix = "val" if stage == "validate" else "test"
    assert found == dict.fromkeys(
        [f"{prefix}/objective", f"{prefix}/objective/ce"], pytest.approx(expected(module, 2), rel=1e-6)
    )


def test_a_schedule_outside_of_fit_has_its_last_value_unless_progress_is_given():
    class Begun(Shared):
        def validation_step(self, batch, batch_idx):
            return self.apply_objective(logits=self.network(batch[0]), target=batch[1], progress=0.25)

    for kind, weight in ((Shared, 2.0), (Begun, 1.0)):
        found = trainer().validate(kind(WarmUp(2.0, until=0.5)), loader(2), verbose=False)[0]
        assert found["val/objective"] == pytest.approx(weight * found["val/objective/ce"])


@pytest.mark.parametrize("batches", [1, 3])
def test_a_name_that_the_project_logs_itself_is_left_to_it(batches):
    class Own(Shared):
        logged_as = "{stage}/loss"

        def training_step(self, batch, batch_idx):
            output = super().training_step(batch, batch_idx)
            self.log("train/loss", 7.0, on_step=False, on_epoch=True)
            return output

        def validation_step(self, batch, batch_idx):
            output = super().validation_step(batch, batch_idx)
            self.log("val/loss", 8.0)
            return output

    module, run = Own(), trainer(limit_train_batches=batches)
    run.fit(module, loader(1), loader(2))
    assert float(run.callback_metrics["train/loss"]) == 7 and float(run.callback_metrics["val/loss"]) == 8
    assert float(run.callback_metrics["val/loss/ce"]) == pytest.approx(expected(module, 2), rel=1e-6)
    assert "train/loss/ce" in run.callback_metrics


def test_the_name_is_the_projects_to_choose_or_to_switch_off():
    module, run = Shared(), trainer()
    module.logged_as = "own/{stage}"
    run.fit(module, loader(1), loader(2))
    assert set(run.callback_metrics) == {f"own/{stage}{term}" for stage in ("train", "val") for term in ("", "/ce")}
    module.logged_as = None
    run = trainer()
    run.fit(module, loader(1), loader(2))
    assert not run.callback_metrics


def test_peers_are_logged_beside_the_student():
    class Pair(OnlineDistillationMixin, Shared):
        def __init__(self):
            super().__init__()
            self.peer, self.peer_objective = nn.Linear(4, 3), self.objective

    run = trainer()
    run.fit(Pair(), loader(1), loader(2))
    names = {
        f"{stage}/{loss}"
        for stage in ("train", "val")
        for loss in ("objective", "objective/ce", "peer_loss", "peer_loss/ce")
    }
    assert set(run.callback_metrics) == names


def test_hooks_of_the_projects_own_keep_epochs_apart():
    class Own(Shared):
        def on_train_epoch_start(self):
            pass

        def on_train_epoch_end(self):
            pass

    class Cut(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            # The first epoch ends before its last batch, whose means nobody asks for.
            trainer.should_stop = trainer.current_epoch == 0 and batch_idx == 1

    module, run = Own(), trainer(callbacks=[Cut()], min_epochs=0)
    run.fit(module, loader(1), loader(2))
    run.fit_loop.max_epochs, run.should_stop = 2, False
    run.fit(module, loader(3), loader(2))
    assert float(run.callback_metrics["train/objective"]) == pytest.approx(expected(module, 3), rel=1e-6)


class TwoShares(Shared):
    """Seven samples, of which two processes have four and three, some without a target; all check what is logged."""

    def train_dataloader(self):
        inputs, target = data(5, rows=7, ignored=[0, 5])
        parts = {1: [range(7)], 2: [range(4), range(4, 7)]}[self.trainer.world_size]
        return DataLoader(TensorDataset(inputs, target), 7, sampler=list(parts[self.trainer.global_rank]))

    def val_dataloader(self):
        return self.train_dataloader()

    def on_fit_end(self):
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        wanted = expected(self, 5, rows=7, ignored=[0, 5])
        names = [f"{stage}/objective{term}" for stage in ("train", "val") for term in ("", "/ce")]
        assert logged == dict.fromkeys(names, pytest.approx(wanted, rel=1e-6))


@pytest.mark.distributed
def test_uneven_processes_log_the_mean_of_one():
    for processes, strategy in ((1, "auto"), (2, "ddp_fork")):
        trainer(devices=processes, strategy=strategy, use_distributed_sampler=False).fit(TwoShares())
