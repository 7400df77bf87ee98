"""How many optimizer steps of a full-batch run may follow each other without a validation or callback between them."""

import math
from collections.abc import Iterable
from typing import Any

from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.experiments.config.instantiate import ConfigError

# With these, Lightning counts batches or does something in a step that it does in none of several.
_COUNTING = {"accumulate_grad_batches": 1, "gradient_clip_val": None, "limit_train_batches": None, "fast_dev_run": None}


def steps_per_batch(config: DictConfig, steps_per_epoch: int, callbacks: Iterable[Callback]) -> int:
    """The `steps_per_batch` of a run's `FullBatchLearner`: as configured, or the largest number that changes nothing.

    That is the largest number that divides the run's steps, those of an epoch, those between two validations, and those
    between two measurements of every callback that looks at batches. It is 1 with clipping, accumulation, a limit on
    batches, and callbacks that don't say how often they look.

    Args:
        config: of the run; ``trainer.val_check_interval`` counts optimizer steps.
        steps_per_epoch: how many optimizer steps an epoch has.
        callbacks: of the run's trainer.

    Raises:
        ValueError: a configured number that the run can't have.
    """
    trainer = config.trainer
    # A share of the epoch, or a time, is left as it is, and needs every step.
    validation = trainer.get("val_check_interval")
    between = validation if type(validation) is int else 1
    intervals = {"data.steps_per_epoch": steps_per_epoch, "trainer.val_check_interval": between}
    if trainer.get("max_steps", -1) > 0:
        intervals["trainer.max_steps"] = trainer.max_steps
    for name, usual in _COUNTING.items():
        if trainer.get(name) not in (usual, None, False):
            intervals[f"trainer.{name}={trainer[name]}, which needs steps one by one:"] = 1
    for callback in callbacks:
        intervals.update(_looks(callback))
    asked: Any = config.modules.student.get("steps_per_batch")
    if asked is None:
        return math.gcd(*intervals.values())
    for name, interval in intervals.items():
        if interval % asked:
            raise ConfigError(
                f"modules.student.steps_per_batch={asked}: it must divide {name} {interval}; leave it out, and the "
                f"largest that fits is taken, here {math.gcd(*intervals.values())}."
            )
    return int(asked)


def _looks(callback: Callback) -> dict[str, int]:
    """Steps between the batches that a callback looks at, if it does."""
    hooks = ("on_train_batch_start", "on_train_batch_end")
    if all(getattr(type(callback), hook) is getattr(Callback, hook) for hook in hooks):
        return {}
    # It takes the batch after a validation.
    if isinstance(callback, GrokkingMonitor) and callback.train_batches == 1:
        return {}
    return {
        f"the steps between {type(callback).__name__}'s measurements,": callback.every_n_steps
        if isinstance(callback, Monitor)
        else 1
    }
