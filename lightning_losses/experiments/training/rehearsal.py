"""A step before anything is trained, on the device and in the precision of the run."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import nn

from lightning_losses.experiments.config.check_config import ConfigError, forks
from lightning_losses.experiments.config.instantiate import instantiate


def rehearse_step(
    module: L.LightningModule,
    batch: Mapping[str, Any],
    trainer: DictConfig,
    validation: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> set[str]:
    """Go forward and backward with one batch, so that errors appear before anything is trained.

    Args:
        module: in its state before training; it is moved to the device.
        batch: the argument of `training_step`.
        trainer: the configuration of the Trainer, which says the device and the precision.
        validation: the argument of `validation_step`, which follows if this is given.
        callbacks: those with a method `before_rehearsal` get the module before its first step, those with a method
            `rehearse` the module, this batch and what its validation returned.

    Returns:
        The names that the steps log.
    """
    with quiet():
        # First, since it sets what must be set before CUDA starts. Without plugins: a cluster's environment can't be
        # built before its job runs.
        built = instantiate(trainer, _convert_="all", logger=False, enable_checkpointing=False, plugins=None)
    device = torch.device("cpu") if forks(trainer) else built.strategy.root_device
    precision = built.precision_plugin
    module = precision.convert_module(module.to(device))

    def there(given: Mapping[str, Any]) -> Any:
        return precision.convert_input(move_data_to_device(given, device))

    for callback in callbacks:
        if hasattr(callback, "before_rehearsal"):
            callback.before_rehearsal(module)
    with _names_logged(module) as names, _naming_the_network(module):
        with precision.train_step_context():
            step: Any = module.training_step(there(batch), 0)
        step["loss"].backward()
        if validation is not None:
            module.eval()
            with torch.no_grad(), precision.val_step_context():
                returned = module.validation_step(there(validation), 0)
                for callback in callbacks:
                    if hasattr(callback, "rehearse"):
                        callback.rehearse(module, there(validation), returned)
            module.train()
    try:
        module.configure_optimizers()
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        # As torch says it: without the key.
        raise ConfigError(
            f"optimizer: it can't be built ({_first_line(error)}); change optimizer.* or scheduler.*."
        ) from None
    return names


@contextmanager
def _names_logged(module: L.LightningModule) -> Iterator[set[str]]:
    """Within this context a module logs nothing; the names that it would log are collected in the list."""
    names = set(getattr(module, "epoch_metrics", ()))

    def log(name: str, *_: Any, **__: Any) -> None:
        names.add(name)

    def add_to_means(log_name: str | None, parts: Mapping[str, Any], *_: Any) -> None:
        if log_name is not None:
            names.update([log_name, *(f"{log_name}/{part}" for part in parts if part)])

    own = vars(module)
    own.update(log=log, add_to_means=add_to_means)
    try:
        yield names
    finally:
        del own["log"], own["add_to_means"]


@contextmanager
def _naming_the_network(module: L.LightningModule) -> Iterator[None]:
    """Within this context an error out of the network or the teacher says which it is, and what it was given."""
    running: list[str] = []

    def enter(network: nn.Module, given: tuple[Any, ...]) -> None:
        shapes = [str(list(one.shape[1:])) for one in given if isinstance(one, torch.Tensor)]
        running[:] = [f"{type(network).__name__} can't take samples of shape {', '.join(shapes)}"]

    networks = [getattr(module, name, None) for name in ("network", "teacher")]
    handles = []
    for network in networks:
        if isinstance(network, nn.Module):
            handles.append(network.register_forward_pre_hook(enter))
            handles.append(network.register_forward_hook(lambda *_: running.clear()))
    try:
        yield
    except RuntimeError as error:
        if not running or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(f"{running[0]} ({_first_line(error)}); give another model= or teacher=.") from error
    finally:
        for handle in handles:
            handle.remove()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's warnings about settings that are intended here."""
    with warnings.catch_warnings():
        # The data are tensors in memory: processes that load them would only cost time.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # A small data set has fewer steps in an epoch than the logger's interval; the epoch's values are what counts.
        warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging")
        # Lightning's own use of a name that torch has renamed.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.* is deprecated")
        yield
