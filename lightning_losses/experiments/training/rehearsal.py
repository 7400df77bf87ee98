"""A step before anything is trained, on the device and in the precision of the run."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from lightning_losses.experiments.config.check_config import forks
from lightning_losses.experiments.config.instantiate import instantiate


def rehearse_step(module: L.LightningModule, batch: Mapping[str, Any], trainer: DictConfig) -> None:
    """Go forward and backward with one batch; what can't work raises here, before anything was trained.

    Args:
        module: as training begins with it; it is moved to the device.
        batch: what `training_step` is given.
        trainer: the configuration of the Trainer, which says the device and the precision.
    """
    with quiet():
        # First, since it sets what must be set before CUDA starts. Without plugins: a cluster's environment can't be
        # built before its job runs.
        built = instantiate(trainer, _convert_="all", logger=False, enable_checkpointing=False, plugins=None)
    device = torch.device("cpu") if forks(trainer) else built.strategy.root_device
    precision = built.precision_plugin
    module = precision.convert_module(module.to(device))
    there = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    with precision.train_step_context():
        step: Any = module.training_step(precision.convert_input(there), 0)
    step["loss"].backward()
    module.configure_optimizers()


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's warnings of what is as it should be here."""
    with warnings.catch_warnings():
        # The data are tensors in memory: processes that load them would only cost time.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # A small data set has fewer steps in an epoch than the logger's interval; the epoch's values are what counts.
        warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging")
        # Lightning's own use of a name that torch has renamed.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.* is deprecated")
        yield
