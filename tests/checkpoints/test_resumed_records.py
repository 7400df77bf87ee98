"""What a resumed run has written and counted is what an uninterrupted one has: metrics, loggers' steps, loops."""

import csv
import itertools
import os
import signal

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lightning_losses.callbacks.records.metrics_file import finish_metrics, read_metrics
from lightning_losses.checkpoints.interruption import terminable
from lightning_losses.experiments.kinds.classification import trainings
from lightning_losses.experiments.kinds.grok import prepare
from lightning_losses.experiments.training.training import callbacks_of
from tests.recipes.conftest import composed

SHORT = [
    "data=digits", "model.width=4", "experiment=classify", "modules.baseline=null", "trainer.max_epochs=2",
    "trainer.limit_train_batches=3", "trainer.enable_progress_bar=false",
]  # fmt: skip


def steps(**changed):
    """A training that counts steps: two epochs of five, and several steps on a batch, unless it is changed."""
    words = ["experiment=grok_perpgrad", "data.prime=11", "data.steps_per_epoch=5", "trainer.val_check_interval=5"]
    words += ["trainer.log_every_n_steps=1"]
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        settings = compose("train", words)
    for key, value in {"trainer.max_steps": 10, **changed}.items():
        OmegaConf.update(settings, key, value, force_add=True)

    def fit(folder, *, resume):
        last, logger = folder / "last.ckpt", CSVLogger(folder)
        trainer, module, data = prepare(
            settings, callbacks_of(settings.callbacks), folder, folder / "metrics.jsonl", logger
        )
        trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)

    return fit


def epochs(*overrides):
    """A training that counts epochs: two of three steps."""
    config = composed(*SHORT, *overrides)

    def fit(folder, *, resume):
        (student,) = trainings(config, config.modules).values()
        metrics = folder / "metrics.jsonl"
        student.run(folder, resume=resume, logger=CSVLogger(folder), metrics_file=metrics)
        finish_metrics(metrics, {"test/accuracy": 0.5})

    return fit


ONE = {"modules.student.steps_per_batch": 1}
# Validated every four batches, whichever epoch they are in: the first epoch ends long after one.
BETWEEN = {"data.steps_per_epoch": 10, "trainer.max_steps": 20, "trainer.val_check_interval": 4,
           "trainer.check_val_every_n_epoch": None}  # fmt: skip
CASES = {
    "in an epoch, of steps": (lambda: steps(**ONE), [2, 7]),
    "at each epoch's end, of steps": (lambda: steps(**ONE), [5, 5]),
    "of several steps on a batch": (steps, [3, 8]),
    "after a validation in an epoch": (lambda: steps(**ONE, **BETWEEN), [9]),
    "in an epoch": (lambda: epochs("trainer.log_every_n_steps=1"), [2]),
    "after all training, with a calibrator": (lambda: epochs("callbacks=calibration"), [6, None]),
    "where not every epoch is validated": (lambda: epochs("+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"),
                                           [8]),
}  # fmt: skip


class KilledError(Exception):
    """What ends a run without a checkpoint."""


def interrupted(fit, folder, at, act, resume):
    count = itertools.count(1)
    hook = register_optimizer_step_pre_hook(lambda *_: act() if next(count) == at else None)
    try:
        with terminable():
            fit(folder, resume=resume)
    except (KeyboardInterrupt, SystemExit, KilledError):
        assert at is not None
    finally:
        hook.remove()


def end():
    os.kill(os.getpid(), signal.SIGTERM)


def kill():
    raise KilledError


def records(folder):
    logged = {}
    for file in sorted(folder.glob("lightning_logs/version_*/metrics.csv")):
        with file.open() as stream:
            for row in csv.DictReader(stream):
                filled = {name: value for name, value in row.items() if value}
                logged[filled.get("step"), tuple(filled)] = filled
    (last,) = folder.rglob("last.ckpt")
    loops = torch.load(last, weights_only=True)["loops"]["fit_loop"]
    return {"metrics": read_metrics(folder / "metrics.jsonl"), "logged": sorted(logged.items()), "loops": loops}


@pytest.mark.filterwarnings("ignore:TemperatureScaling. the best temperature lies outside")
@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_an_uninterrupted_run(tmp_path, name):
    make, moments = CASES[name]
    fit, whole = make(), tmp_path / "whole"
    fit(whole, resume=False)
    for number, act in enumerate((end, kill)):
        folder = tmp_path / str(number)
        for place, at in enumerate(moments):
            interrupted(fit, folder, at, act, resume=place > 0)
        fit(folder, resume=True)
        assert records(folder) == records(whole), act.__name__
