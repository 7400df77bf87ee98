"""A rehearsal's step is taken on the device and in the precision of the run."""

import copy
import errno
import os
import re
from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import Precision
from omegaconf import OmegaConf

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.launch import experiment_of
from lightning_losses.experiments.training import rehearsal
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.rehearsal import rehearse_step
from tests.recipes.conftest import SHORT as SHORT_CLASSIFIER
from tests.recipes.conftest import composed as train_composed
from tests.recipes.test_language_model import SHORT, composed, rehearse, train

CLASSIFY = ["model.depth=1", *SHORT_CLASSIFIER]


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


class Distilled(Doubled):
    """A step of a network and its teacher."""

    def __init__(self, network, teacher):
        super().__init__()
        self.network, self.teacher = network, teacher

    def training_step(self, batch, batch_idx):
        return {"loss": (self.network(batch["inputs"]) - self.teacher(batch["inputs"])).sum()}


@pytest.mark.parametrize(
    ("network", "teacher", "message"),
    [
        (
            torch.nn.Linear(4, 1),
            torch.nn.Linear(3, 1),
            r"Linear can't take samples of shape \[3\] \(mat1 and mat2 .*\);",
        ),
        (
            torch.nn.Linear(3, 1),
            torch.nn.Conv1d(3, 1, 5),
            r"Conv1d can't take samples of shape \[3\] \(.*\); give anoth",
        ),
        (torch.nn.Linear(3, 2), torch.nn.Linear(3, 3), r"^The size of tensor a"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_named(network, teacher, message):
    with pytest.raises(RuntimeError if message.startswith("^") else ConfigError, match=message):
        rehearse_step(Distilled(network, teacher), {"inputs": torch.ones(2, 3)}, trainer())
    assert not network._forward_hooks and not network._forward_pre_hooks


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


@pytest.fixture(scope="module")
def classify():
    early = ["callbacks=early_stopping", "+trainer.check_val_every_n_epoch=3"]
    return train_composed("experiment=classify", *CLASSIFY[:-1], *early)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("callbacks.early_stopping.monitor", "val/los", "val/los: nothing is logged as that; did you mean val/loss"),
        ("callbacks.early_stopping.monitor", "train/loss/ce", None),
        ("optimized_metric", "foo", "the run reports no such number; choose one of: calibration/acc"),
        ("optimized_metric", "test/nll", None),
        ("execution.blocks", ["Foo"], "execution.blocks: SmallCNN has no Foo; it consists of"),
        ("execution.compile", "foo", "execution.compile: backend='foo' came; choose one of"),
        ("weights", "best", "trainer.check_val_every_n_epoch=3: in 2 epochs there would be no validation"),
    ],
)  # fmt: skip
def test_what_is_known_only_of_the_network_is_told_before_the_training(classify, key, value, message):
    config = copy.deepcopy(classify)
    OmegaConf.update(config, key, value, force_add=True)
    with nullcontext() if message is None else pytest.raises(ConfigError, match=re.escape(message)):
        experiment_of(config).rehearse()


@pytest.mark.parametrize(
    ("name", "step"), [("calibration_monitor", "validation_step"), ("post_hoc_calibration", "predict_step")]
)
def test_a_network_that_can_not_be_calibrated_is_told_before_the_training(name, step):
    config = train_composed("experiment=regress", "callbacks=calibration")
    config.callbacks = {name: config.callbacks[name]}
    with pytest.raises(ValueError) as raised:
        experiment_of(config).rehearse()
    who = {"calibration_monitor": "CalibrationMonitor", "post_hoc_calibration": "PostHocCalibration"}[name]
    assert str(raised.value) == (
        f"{who}: {step} returned no 'logits' and 'target'; return {{\"logits\": logits, \"target\": target}}."
    )


def test_what_the_teacher_has_otherwise_is_checked_as_the_students():
    config = train_composed(*CLASSIFY, "teacher_cache=100")
    with pytest.raises(ValueError, match="teacher_cache=100 came for 10 classes; give at most 10, or full"):
        experiment_of(config).rehearse()
    for part, message in (
        ("data", "^teacher_data.foo: Digits takes no 'foo'"),
        ("optimizer", r"^modules\.teacher\.optimizer\.foo: AdamW takes no 'foo'"),
    ):
        changed = copy.deepcopy(config)
        OmegaConf.update(changed, f"teacher_{part}.foo", 1, force_add=True)
        with pytest.raises(ConfigError, match=f"{message}; choose one of"):
            experiment_of(changed).rehearse()


def test_a_network_that_can_not_be_kept_does_not_end_the_run(tmp_path, monkeypatch, capfd):
    config = train_composed(*CLASSIFY, f"cache={tmp_path / 'cache'}")
    training = experiment_of(config).trainings()["baseline"]
    kept = KeptNetworks(config.cache)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(kept.folder))
    monkeypatch.setattr(kept, "save", mock.Mock(side_effect=full))
    trained = training.run_once(kept, tmp_path / "checkpoints")
    assert trained.name == "baseline" and not trained.kept
    said = capfd.readouterr().err
    assert f"The baseline isn't kept for other runs: {kept.folder} can't be written: No space left on device." in said
