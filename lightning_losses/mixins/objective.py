"""The mixin that lets an `Objective` decide what a LightningModule minimises."""

import functools
import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_losses.environment.lightning_internals import attached_trainer
from lightning_losses.losses.regularization.wdr_loss import layer_weights
from lightning_losses.mixins.epoch_means import EpochMeans
from lightning_losses.objective import Objective, ObjectiveValue
from lightning_losses.parallel.processes import (
    gather_batch,
    group_rank,
    neighbours,
    share_of_mean,
    values_on_first,
    whole_parameter,
    world_size,
)

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as _Base
else:
    _Base = object


class ObjectiveMixin(_Base):
    """Lets an `Objective` decide what a LightningModule minimises.

    Set `self.objective`, then return `self.apply_objective(...)` from `training_step`, with whatever tensors the step
    has under their glossary names. The mixin adds `step`, `progress` and `epoch_progress`, gives batch-coupled losses
    the batch of all processes, logs every part's mean over the epoch as ``train/loss/<term>`` and returns
    ``{"loss": total, "logits": ..., "target": ..., ...}``, which callbacks can read.

    The parts are added up on the device and logged with the epoch's last batch, since a call of `log` in every step
    costs more than a small loss. Where an epoch is cut short from outside (`trainer.should_stop`), they are logged at
    its end, which other callbacks' `on_train_epoch_end` is too early to see.

    Attributes:
        objective: what is minimised; its parameters, if any, train and are saved with the module's.
        gather_batches: True makes every loss on several processes the loss of one process with the whole batch:
            batch-coupled losses see the gathered batch, and the other means weigh each process by its samples, so
            that an uneven last batch or unequal numbers of ignored tokens change nothing. False keeps each process
            to its own batch. A number, which divides that of the processes, gathers among so many neighbours: for
            batch-coupled losses the value is then the mean of the groups'.

    Example:
        >>> import lightning, torch
        >>> from lightning_losses.losses import CrossEntropy
        >>> class Linear(ObjectiveMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(4, 3)
        ...         self.objective = Objective({"ce": CrossEntropy(label_smoothing=0.1)})
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)
        >>> sorted(Linear().training_step((torch.zeros(2, 4), torch.tensor([0, 1])), 0))
        ['inputs', 'logits', 'loss', 'target']
    """

    objective: Objective
    gather_batches: bool | int = True

    def apply_objective(self, **tensors: Any) -> dict[str, Any]:
        """Evaluate `self.objective` on the step's tensors, log its parts, and return the step's output."""
        value = self.evaluate_objective(self.objective, "train/loss", self.objective_tensors(tensors))
        return {"loss": value, **tensors}

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The tensors offered to the objective; other mixins add theirs here, and call `super()`."""
        if self.objective.needs("weights") and "weights" not in tensors:
            layers = layer_weights(self, without=("objective", "peer_objective"))
            tensors = {**tensors, "weights": {name: whole_parameter(weight) for name, weight in layers.items()}}
        return {**tensors, **self.training_clock()}

    def training_clock(self) -> dict[str, float]:
        """`step`, `progress` and `epoch_progress`, as far as the trainer knows them."""
        if attached_trainer(self) is None:
            return {}
        clock: dict[str, float] = {"step": self.trainer.global_step}
        steps = self.trainer.estimated_stepping_batches
        if math.isfinite(steps) and steps > 0:
            clock["progress"] = min(self.trainer.global_step / steps, 1.0)
        if self.trainer.max_epochs is not None and self.trainer.max_epochs > 0:
            clock["epoch_progress"] = min((self.trainer.current_epoch + 1) / self.trainer.max_epochs, 1.0)
        return clock

    def evaluate_objective(self, objective: Objective, prefix: str, tensors: dict[str, Any]) -> Tensor:
        """Evaluate one objective and log its parts as ``<prefix>/<term>``, the total as ``<prefix>``."""
        value = self.objective_value(objective, tensors)
        self.log_objective(prefix, value, tensors)
        return value.total

    def objective_value(self, objective: Objective, tensors: dict[str, Any]) -> ObjectiveValue:
        """Evaluate one objective on the batch of all processes."""
        if not self.gather_batches or world_size() == 1:
            return objective(**tensors)
        group = None if self.gather_batches is True else neighbours(self.gather_batches)
        return objective(gather=functools.partial(gather_batch, group=group), share=share_of_mean, **tensors)

    def log_objective(self, prefix: str, value: ObjectiveValue, tensors: dict[str, Any]) -> None:
        """Log the means over the epoch of an objective's parts as ``<prefix>/<term>``, of the total as ``<prefix>``."""
        if attached_trainer(self) is None:
            return
        means = self._epoch_means.setdefault(prefix, EpochMeans())
        parts = {f"{prefix}/{name}": part for name, part in value.parts.items()}
        means.add({prefix: value.total, **parts}, _batch_size(tensors))
        trainer = self.trainer
        if trainer.is_last_batch or 0 < trainer.max_steps <= trainer.global_step + 1:
            self._log_means(means)

    def on_train_epoch_start(self) -> None:
        """Begin new means."""
        super().on_train_epoch_start()
        self._epoch_means.clear()

    def on_train_epoch_end(self) -> None:
        """Log the means of an epoch that ended before its last batch."""
        super().on_train_epoch_end()
        for means in self._epoch_means.values():
            self._log_means(means)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the sums of a begun epoch, which each process has of its own."""
        super().on_save_checkpoint(checkpoint)
        begun = {prefix: state for prefix, means in self._epoch_means.items() if (state := means.state_dict())}
        if begun:
            checkpoint["objective_means"] = values_on_first(begun)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with a begun epoch; the start of another one drops it, and so does another number of processes."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get("objective_means", [])
        own = saved[group_rank()] if len(saved) == world_size() else {}
        for prefix, state in own.items():
            self._epoch_means.setdefault(prefix, EpochMeans()).load_state_dict(state, self.device)

    @property
    def _epoch_means(self) -> dict[str, EpochMeans]:
        found: dict[str, EpochMeans] = self.__dict__.setdefault("_objective_means", {})
        return found

    def _log_means(self, means: EpochMeans) -> None:
        values, weight = means.take()
        if values:
            self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=weight)


def _batch_size(tensors: dict[str, Any]) -> int:
    return next((len(tensor) for tensor in tensors.values() if isinstance(tensor, Tensor) and tensor.ndim > 0), 1)
