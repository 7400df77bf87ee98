"""The base of mixins that evaluate losses: gradients and logged values are means over all samples."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.environment.lightning_internals import (
    attached_trainer,
    logged_elsewhere,
    running_hook,
    takes_step,
)
from lightning_losses.environment.logged_means import log_means
from lightning_losses.environment.repeated_batch import closes_step, runs_again
from lightning_losses.mixins.epoch_means import EpochMeans
from lightning_losses.mixins.step_means import StepMeans
from lightning_losses.objective.term import Count
from lightning_losses.parallel.processes import group_rank, total_of_all, values_of_all, values_on_first, world_size

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as _Base
else:
    _Base = object


class TrainingMeans(_Base):
    """Makes a step's gradient and its logged values means over the samples of all processes and batches.

    A loss is the mean over the kept samples of the optimizer step: with `accumulate_grad_batches`, and under manual
    optimization if `manual_backward` is called several times before the optimizer's step. Gradients have that scale
    from `on_after_backward` on. `StepMeans` explains how. With terms that are means over different samples, a second
    `manual_backward` before the step is refused. Other parts of a step's loss are scaled like its first term.

    Attributes:
        logged_as: the name of epoch means, where ``{stage}`` is "train", "val" or "test"; None logs nothing. A name
            that the module logs itself is left to it. The ready modules use "{stage}/loss". A mean over no samples is
            not logged.
    """

    logged_as: str | None = "{stage}/objective"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        order = list(cls.__mro__)
        module = next((kind for kind in order if kind.__name__ == "LightningModule"), None)
        if module is not None and order.index(module) < order.index(TrainingMeans):
            late = next(kind for kind in order[order.index(module) :] if issubclass(kind, TrainingMeans))
            raise ValueError(
                f"{cls.__name__}: LightningModule comes before {late.__name__} in its bases, and would hide its "
                f"overrides; write class {cls.__name__}({late.__name__}, LightningModule)."
            )

    @property
    def weighs_batches(self) -> bool:
        """Whether this batch's gradient may be one of several in an optimizer step."""
        trainer = attached_trainer(self)
        if trainer is None or not trainer.training or not torch.is_grad_enabled():
            return False
        return not self.automatic_optimization or trainer.accumulate_grad_batches > 1

    @property
    def evaluates(self) -> bool:
        """Whether a trainer validates, tests or predicts; a loss is then that of the process's own batch."""
        trainer = attached_trainer(self)
        return trainer is not None and not trainer.training

    @property
    def mixes(self) -> bool:
        """Whether samples may be mixed: where a trainer trains, and without one in training mode."""
        trainer = attached_trainer(self)
        return bool(self.training if trainer is None else trainer.training)

    def backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
        """Run the backward pass of a batch; its gradient is its share of the optimizer step's gradient."""
        means: StepMeans | None = self.__dict__.get("_step_means")
        if means is not None and means.noted and loss.requires_grad:
            trainer = self.trainer
            closing = running_hook(self) == "backward" and closes_step(self)
            loss = means.prepare(
                loss,
                arguments[0] if arguments else keywords.get("gradient"),
                # The optimizers' parameters: FSDP2 replaces the module's between forward and backward pass.
                [p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]],
                step=trainer.global_step,
                batches=trainer.accumulate_grad_batches if closing else None,
                more=self.automatic_optimization and not closing,
            )
        super().backward(loss, *arguments, **keywords)
        callbacks: list[Any] = getattr(attached_trainer(self), "callbacks", [])
        # A callback that may still skip the step tells when the means are final.
        if not runs_again(self) and not any(getattr(callback, "leaves_out_steps", False) for callback in callbacks):
            self.log_finished_means()

    def share_of_step(self, part: Float[Tensor, ""], count: Count) -> Float[Tensor, ""]:
        """A batch's mean, with its gradient scaled to its share of the optimizer step.

        Args:
            part: the mean.
            count: the number of samples of all processes in the mean.
        """
        if not self.weighs_batches:
            return part
        if self.automatic_optimization and self.trainer.strategy.handles_gradient_accumulation:
            raise ValueError(
                f"{type(self).__name__}: {type(self.trainer.strategy).__name__} accumulates batches by itself, where "
                "those of unequal size can't be weighed; use DDP or FSDP2, or accumulate_grad_batches=1."
            )
        means: StepMeans = self.__dict__.setdefault("_step_means", StepMeans())
        return means.note(part, count, self.trainer.global_step)

    def log_name(self, name: str | None = None) -> str | None:
        """The log name of this stage's means; a given name replaces the last word."""
        if self.logged_as is None:
            return None
        logged_as = self.logged_as.format(stage=_stage(attached_trainer(self)))
        return logged_as if name is None else "/".join([*logged_as.split("/")[:-1], name])

    def add_to_means(
        self,
        log_name: str | None,
        parts: Mapping[str, Tensor],
        weights: Mapping[str, float | Tensor],
        samples: Mapping[str, Tensor],
    ) -> None:
        """Add a batch's values to the means that are logged as `log_name` and ``log_name/<part>``.

        Several calls for one batch add up to one total, unless they have a part in common.
        """
        trainer = attached_trainer(self)
        if trainer is None or log_name is None or trainer.sanity_checking or trainer.predicting or runs_again(self):
            return
        if trainer.training:
            self._begin_epoch()
        self._epoch_means.setdefault(_stage(trainer), {}).setdefault(log_name, EpochMeans()).add(
            parts, weights, samples, batch=_batch(trainer), step=trainer.global_step if trainer.training else None
        )

    def leave_out_step(self) -> None:
        """Remove the values of the current optimizer step's batches from the means, because the step is skipped."""
        for one in self._epoch_means.get("train", {}).values():
            one.leave_out(self.trainer.global_step)

    def log_finished_means(self) -> None:
        """Log the means of a training epoch with its last batch, before callbacks read them at its end."""
        trainer = attached_trainer(self)
        if trainer is None:
            return
        if trainer.is_last_batch or (0 < trainer.max_steps <= trainer.global_step + 1 and takes_step(trainer)):
            self._log_means("train")

    def on_train_epoch_start(self) -> None:
        """Begin new means."""
        super().on_train_epoch_start()
        self._epoch_means.pop("train", None)

    def on_train_epoch_end(self) -> None:
        """Log the means of an epoch that ended before its last batch."""
        super().on_train_epoch_end()
        self._log_means("train")

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation."""
        super().on_validation_epoch_end()
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over the test."""
        super().on_test_epoch_end()
        self._log_means("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save each process's sums of an unfinished epoch."""
        super().on_save_checkpoint(checkpoint)
        means = self._epoch_means.get("train", {})
        begun = values_on_first({name: state for name, one in means.items() if (state := one.state_dict())})
        if any(begun):
            checkpoint["objective_means"] = begun

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums of an unfinished epoch; they are dropped for another epoch or number of processes."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get("objective_means", [])
        own = saved[group_rank()] if len(saved) == world_size() else {}
        for name, state in own.items():
            self._epoch_means.setdefault("train", {}).setdefault(name, EpochMeans()).load_state_dict(state, self.device)

    @property
    def _epoch_means(self) -> dict[str, dict[str, EpochMeans]]:
        found: dict[str, dict[str, EpochMeans]] = self.__dict__.setdefault("_means_by_stage", {})
        return found

    def _begin_epoch(self) -> None:
        """Drop the sums of another epoch; a module may override `on_train_epoch_start`."""
        trainer, before = self.trainer, self.__dict__.get("_added_at")
        now = self.__dict__["_added_at"] = (trainer.current_epoch, trainer.fit_loop.batch_idx)
        if before is not None and before != now and (now[1] == 0 or before[0] != now[0]):
            self._epoch_means.pop("train", None)

    def _log_means(self, stage: str) -> None:
        held = self._epoch_means.setdefault(stage, {})
        # A process that had none of the batches has nothing to say, and the others wait for it.
        for name in dict.fromkeys(name for names in values_of_all(list(held)) for name in names):
            if (means := held.setdefault(name, EpochMeans()).take(self.device)) is None:
                continue
            values = {name: (means.total, max(means.samples.values()))}
            values |= {f"{name}/{part}": (value, means.samples[part]) for part, value in means.parts.items() if part}
            # A mean over no samples isn't logged.
            values = {logged: (value, samples) for logged, (value, samples) in values.items() if samples}
            taken = logged_elsewhere(self.trainer, self.__dict__.setdefault("_logged_means", set()))
            for logged, (value, samples) in values.items():
                if logged not in taken:
                    self.__dict__["_logged_means"].add((running_hook(self), logged))
                    # Every process has the same number.
                    log_means(self, {logged: value}, samples, on_step=False, on_epoch=True)


def all_processes(samples: Tensor) -> Float[Tensor, ""]:
    """A count over all processes, exact beyond 2**24 if the device has double precision."""
    wide = samples.detach().to(torch.float32 if samples.device.type == "mps" else torch.float64)
    return total_of_all(wide)


def _batch(trainer: Any) -> tuple[int, int]:
    """A value that identifies the current batch."""
    if trainer.training:
        return trainer.current_epoch, trainer.fit_loop.batch_idx
    loops = (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop)
    return -1, sum(loop.batch_progress.total.ready for loop in loops)


def _stage(trainer: Any) -> str:
    if trainer is None or trainer.training:
        return "train"
    return "test" if trainer.testing else "predict" if trainer.predicting else "val"
