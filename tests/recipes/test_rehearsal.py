"""A rehearsal's step is taken on the device and in the precision of the run."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import Precision
from omegaconf import OmegaConf

from lightning_losses.experiments.training import rehearsal
from lightning_losses.experiments.training.rehearsal import rehearse_step
from tests.recipes.test_language_model import SHORT, composed, rehearse, train


class Doubled(L.LightningModule):
    """Notes what its step is given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        self.seen = batch["inputs"]
        self.product = self.layer(self.seen)
        return {"loss": self.product.sum()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**settings):
    return OmegaConf.create({"_target_": "lightning.Trainer", "accelerator": "cpu", "devices": 1, **settings})


def rehearsed(trainer):
    module = Doubled()
    rehearse_step(module, {"inputs": torch.ones(2, 3), "step": 0}, trainer)
    return module


@pytest.mark.parametrize(
    ("precision", "of_input", "of_product"),
    [
        ("32-true", torch.float32, torch.float32),
        ("bf16-mixed", torch.float32, torch.bfloat16),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("64-true", torch.float64, torch.float64),
    ],
)
def test_it_is_in_the_precision_of_the_run(precision, of_input, of_product):
    module = rehearsed(trainer(precision=precision))
    assert (module.seen.dtype, module.product.dtype) == (of_input, of_product)


@pytest.mark.parametrize(("strategy", "device"), [("auto", "meta"), ("ddp", "meta"), ("ddp_fork", "cpu")])
def test_it_is_on_the_device_of_the_run_unless_the_run_is_forked(strategy, device, monkeypatch):
    built = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")), precision_plugin=Precision())
    monkeypatch.setattr(rehearsal, "instantiate", lambda *_, **__: built)
    module = rehearsed(trainer(strategy=strategy))
    assert module.seen.device.type == module.layer.weight.grad.device.type == device


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("experiment", ["language_model", "distill_language_model"])
def test_triton_trains_on_a_gpu(experiment, precision, tmp_path):
    teacher = ["teacher.width=24", "teacher.depth=1"] if experiment.startswith("distill") else []
    words = [f"experiment={experiment}", *SHORT, *teacher, "impl=triton", f"trainer.precision={precision}"]
    config = composed(*words, f"cache={tmp_path / 'cache'}")
    rehearse(config)
    report = train(config, tmp_path / "run")
    assert all(loss < 6 for loss in report.networks[-1].trained.history["train/loss"])
