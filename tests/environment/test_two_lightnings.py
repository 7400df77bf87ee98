"""A project that says `import pytorch_lightning`: what works there works, and what can't is refused in a sentence."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses import NKD, CrossEntropy, DistillationMixin, Objective, Term
from lightning_losses.callbacks.calibration.post_hoc_calibration import PostHocCalibration
from lightning_losses.callbacks.records.figures import publish, publish_table
from lightning_losses.checkpoints import LastCheckpoint
from lightning_losses.environment.two_lightnings import refuse_other_lightning
from lightning_losses.objective import WarmUp

pl = pytest.importorskip("pytorch_lightning")


class Student(DistillationMixin, pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        self.objective = Objective({"ce": CrossEntropy(), "nkd": Term(NKD(), WarmUp(1.0, until=0.5))})

    def training_step(self, batch, batch_idx):
        return self.apply_objective(inputs=batch[0], logits=self.network(batch[0]), target=batch[1])

    def validation_step(self, batch, batch_idx):
        logits = self.network(batch[0])
        self.log("val/accuracy", (logits.argmax(-1) == batch[1]).float().mean())
        return {"logits": logits, "target": batch[1]}

    def predict_step(self, batch, batch_idx):
        return {"logits": self.network(batch[0]), "target": batch[1]}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


def loader():
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(32, 4, generator=generator), torch.arange(32) % 3), 8)


def fit(folder, callbacks, **options):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=callbacks, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(Student(), loader(), loader())
    return trainer


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_a_mixin_trains_accumulates_and_logs(tmp_path):
    trainer = fit(tmp_path, [], accumulate_grad_batches=3, enable_checkpointing=False)
    assert {"train/objective", "train/objective/ce", "train/objective/nkd"} <= set(trainer.callback_metrics)


def test_a_mixin_behind_its_module_is_refused_too():
    with pytest.raises(ValueError, match="^Late: LightningModule comes before DistillationMixin"):

        class Late(pl.LightningModule, DistillationMixin):
            pass


def test_the_best_weights_are_calibrated(tmp_path):
    best = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="val/accuracy", mode="max", filename="best")
    calibration = PostHocCalibration()
    fit(tmp_path, [best, calibration])
    assert calibration.path == tmp_path / "best.calibrator.safetensors"


def test_what_goes_by_the_trainers_own_signals_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^last_checkpoint: the trainer is one of pytorch_lightning; write"):
        fit(tmp_path, [LastCheckpoint(tmp_path)])
    refuse_other_lightning(
        "doc", L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    )


def test_pictures_and_tables_reach_the_logger_of_either(tmp_path):
    sent = []

    class WandbLogger:
        """As both call theirs."""

        log_dir = None

        def log_image(self, name, images, step):
            sent.append((name, len(images), step))

        def log_table(self, name, columns, data, step):
            sent.append((name, columns, step))

    class Trainer:
        is_global_zero, global_step, loggers = True, 7, [WandbLogger()]

    publish(Trainer(), "val/picture", None, None)
    publish_table(Trainer(), "val/table", ["a"], [[1]])
    assert sent == [("val/picture", 1, 7), ("val/table", ["a"], 7)]
