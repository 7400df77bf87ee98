"""A LightningModule for tasks whose batch is the whole training set, with as little overhead as possible."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_losses.data.loading import named
from lightning_losses.environment.lightning_internals import (
    RUNNING_HOOK,
    attached_trainer,
    count_steps,
    note_running_hook,
    running_hook,
    step_progress,
)
from lightning_losses.environment.logged_means import log_means
from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.modules.classifier import OptimizerFactory, parameters_to_train
from lightning_losses.modules.evaluation import evaluate
from lightning_losses.numerics.checks import check_choice, check_count
from lightning_losses.objective import Objective
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import world_size

Batch = dict[str, Tensor]
Measure = Literal["accuracy", "loss"]

# The hooks of callbacks and module that Lightning runs within one optimizer step.
_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


class FullBatchLearner(ObjectiveMixin, L.LightningModule):
    """Trains a network on whole batches, without logging in the training step.

    A step of such a task may take a millisecond, and logging would take a third of it. Monitors log when they measure.
    For everything else use `Classifier`.

    Validation logs ``val/accuracy`` and ``val/loss``, cross-entropy, for classes; ``val/loss``, the mean squared
    error, for regression. In a fit on one process without loggers, a validation of one batch writes them into
    ``trainer.callback_metrics`` directly.

    With `steps_per_batch` k > 1, `training_step` takes k optimizer steps on its batch, so that Lightning's work around
    a batch is done once for all of them. The weights after each step are bitwise the same as with k = 1, and so is
    everything that counts optimizer steps: ``trainer.global_step``; ``max_steps`` (the last batch takes fewer steps if
    necessary); the steps in the loggers; an epoch of `ResidentData`; and the callbacks' hooks within a step,
    ``on_before_zero_grad`` to ``on_before_optimizer_step``, so that interventions act on every step. Everything that
    counts batches sees one for k steps: ``val_check_interval``, and the callbacks' ``on_train_batch_start`` and
    ``on_train_batch_end``, whose outputs are those of the first of the k steps. A monitor in these hooks that measures
    every n steps works as with k = 1 if k divides n. Gradient clipping, accumulation, learning-rate schedulers and
    `NumericsGuard` are refused, and the module's own ``optimizer_step`` is not called; a checkpoint can be continued
    only with the same k.

    Args:
        network: maps `inputs` to logits [B, C], or to a regression's output [B, 1].
        objective: the objective to minimise; it gets `logits` and `target`.
        optimizer: a function that makes the optimizer from the parameters; AdamW with its defaults if None.
        measure: "accuracy" for classes, "loss" for regression.
        steps_per_batch: k, the number of optimizer steps on each batch, at least 1.

    Raises:
        ValueError: an unknown measure; fewer than 1 step per batch; with more than 1, a scheduler or `NumericsGuard`; a
            checkpoint with another number.
        MisconfigurationException: Lightning's, with more than 1 step per batch and clipping or accumulation.

    Example:
        >>> from lightning_losses import CrossEntropy
        >>> module = FullBatchLearner(nn.Linear(4, 3), Objective({"ce": CrossEntropy()}))
        >>> sorted(module.training_step({"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1])}, 0))
        ['logits', 'loss', 'target']
    """

    # A step may take a millisecond, and computing means would be a noticeable part.
    logged_as = None

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: OptimizerFactory | None = None,
        measure: Measure = "accuracy",
        steps_per_batch: int = 1,
    ) -> None:
        super().__init__()
        check_choice("full_batch_learner", "measure", measure, Measure)
        self.network = network
        self.objective = objective
        self.make_optimizer: OptimizerFactory = optimizer or torch.optim.AdamW
        self.measure: Measure = measure
        self.steps_per_batch = steps_per_batch

    @property
    def steps_per_batch(self) -> int:
        """The number of optimizer steps on each batch; it must not change during training."""
        return self._steps_per_batch

    @steps_per_batch.setter
    def steps_per_batch(self, steps: int) -> None:
        check_count("full_batch_learner", "steps_per_batch", steps)
        self._steps_per_batch = steps
        # Lightning takes a single step itself.
        self.automatic_optimization = steps == 1

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets the name of every hook it runs, 40 times a step; a string needs none of nn.Module's checks.
        if name == RUNNING_HOOK:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """The logits of a batch of inputs."""
        return self.network(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The objective of one batch; with several steps per batch, take them, and return the first one's."""
        batch = named(type(self).__name__, batch)
        # Only Lightning's loop makes it take steps, not for example a callback.
        if self.steps_per_batch == 1 or running_hook(self) != "training_step":
            return self._evaluate(batch)
        left = self.trainer.max_steps - self.trainer.global_step
        steps = self.steps_per_batch if self.trainer.max_steps < 0 else min(self.steps_per_batch, left)
        first = (self._plain_steps if self._is_plain() else self._steps)(batch, steps)
        # Lightning itself adds one for the batch, and uses the count as the loggers' step.
        count_steps(self.trainer, steps - 1)
        return first

    def on_train_start(self) -> None:
        """Refuse features that don't work with several steps per batch."""
        if self.steps_per_batch == 1:
            return
        callbacks: list[Any] = list(self.trainer.callbacks)  # type: ignore[attr-defined]
        refused = {
            "a learning-rate scheduler, which nobody would step": bool(self.trainer.lr_scheduler_configs),
            "NumericsGuard, which runs the batch again": any(getattr(c, "repeats_batches", False) for c in callbacks),
        }
        for what, came in refused.items():
            if came:
                raise ValueError(
                    f"full_batch_learner: steps_per_batch={self.steps_per_batch} came with {what}; give "
                    "steps_per_batch=1."
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of steps per batch, on which the trainer's batch counts depend."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["steps_per_batch"] = self.steps_per_batch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint with another number of steps per batch."""
        super().on_load_checkpoint(checkpoint)
        before = checkpoint.get("steps_per_batch", 1)
        trainer = attached_trainer(self)
        if trainer is not None and trainer.state.fn == "fit" and before != self.steps_per_batch:
            raise ValueError(
                f"full_batch_learner: steps_per_batch={self.steps_per_batch} came for a checkpoint of {before}; give "
                f"steps_per_batch={before}."
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Metrics on one batch."""
        batch = named(type(self).__name__, batch)
        logits, target = self.network(batch["inputs"]), batch["target"]
        samples = len(target)
        if self.measure == "accuracy":
            measured = evaluate(logits, target, *ignored_targets(self))
            metrics, samples = {"val/accuracy": measured.accuracy, "val/loss": measured.loss}, measured.samples
        else:
            metrics = {"val/loss": F.mse_loss(logits, target, reduction="sum") / max(target.numel(), 1)}
        if self._callbacks_alone_read():
            # Logging would take as long as two steps of a small network.
            self.trainer.callback_metrics.update(metrics if samples else {})
        else:
            log_means(self, metrics, samples)

    def configure_optimizers(self) -> Optimizer:
        """One optimizer for the network."""
        return self.make_optimizer(parameters_to_train(self, self.objective))

    def _evaluate(self, batch: Batch) -> dict[str, Tensor]:
        logits, target = self.network(batch["inputs"]), batch["target"]
        trainer = attached_trainer(self)
        alone = world_size() == 1 and (trainer is None or trainer.accumulate_grad_batches == 1)
        alone = alone and self.objective.balancing is None
        given = {"logits": logits, "target": target}
        value = self.objective(**given) if alone else self.objective_value(self.objective, given)
        return {"loss": value.total, **given}

    def _steps(self, batch: Batch, steps: int) -> dict[str, Tensor]:
        """Take optimizer steps as Lightning does; returns the outputs of the first."""
        optimizer: Any = self.optimizers()
        tell = self._listeners()
        outputs: list[dict[str, Tensor]] = []

        def closure() -> Tensor:
            outputs.append(self._evaluate(batch))
            loss = outputs[-1]["loss"]
            tell("on_before_zero_grad", optimizer.optimizer)
            optimizer.optimizer.zero_grad()
            # The training step is under autocast, but a backward pass must not be.
            with torch.autocast(self.device.type, enabled=False):
                self.manual_backward(loss)
            del outputs[1:]
            return loss

        for _ in range(steps):
            optimizer.step(closure)
        return outputs[0]

    def _plain_steps(self, batch: Batch, steps: int) -> dict[str, Tensor]:
        """The same for one process in float32: a loop without Lightning, plus the hooks and the count of steps."""
        optimizer: Any = self.trainer.optimizers[0]
        progress = step_progress(self.trainer)
        tell = self._listeners()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        as_usual = not _overrides(optimizer, Optimizer, "zero_grad")
        outputs: list[dict[str, Tensor]] = []

        def closure() -> Tensor:
            outputs.append(self._evaluate(batch))
            loss = outputs[-1]["loss"]
            tell("on_before_zero_grad", optimizer)
            if as_usual:
                # zero_grad without its profiling, which takes longer than a small network's update.
                for parameter in parameters:
                    parameter.grad = None
            else:
                optimizer.zero_grad()
            tell("on_before_backward", loss)
            loss.backward()  # type: ignore[no-untyped-call]
            tell("on_after_backward")
            tell("on_before_optimizer_step", optimizer)
            del outputs[1:]
            return loss

        for _ in range(steps):
            progress.increment_ready()
            optimizer.step(closure)
            progress.increment_completed()
        return outputs[0]

    def _listeners(self) -> Callable[..., None]:
        """A function that runs a hook within a step: that of the callbacks in order, then that of the module."""
        trainer: Any = self.trainer
        listeners: dict[str, list[Callable[..., None]]] = {}
        for hook in _HOOKS:
            heard = [callback for callback in trainer.callbacks if _overrides(callback, Callback, hook)]
            listeners[hook] = [partial(getattr(callback, hook), trainer, self) for callback in heard]
            if _overrides(self, L.LightningModule, hook):
                listeners[hook].append(getattr(self, hook))

        def tell(hook: str, *arguments: Any) -> None:
            for listener in listeners[hook]:
                note_running_hook(self, hook)
                listener(*arguments)
                note_running_hook(self, "training_step")

        return tell

    def _is_plain(self) -> bool:
        """Whether strategy, precision, profiler and module leave a step entirely to PyTorch."""
        trainer: Any = self.trainer
        return (
            type(trainer.strategy) is SingleDeviceStrategy
            and type(trainer.precision_plugin) is Precision
            and type(trainer.profiler) is PassThroughProfiler
            and not _overrides(self, ObjectiveMixin, "backward")
        )

    def _callbacks_alone_read(self) -> bool:
        """Whether the metrics come from one batch in one process, and there are no loggers."""
        trainer: Any = self.trainer
        return (
            trainer.state.fn == "fit"
            and not trainer.sanity_checking
            and not trainer.loggers
            and trainer.world_size == 1
            and trainer.num_val_batches == [1]
        )


def _overrides(listener: Any, base: type, hook: str) -> bool:
    return getattr(listener, hook).__func__ is not getattr(base, hook)
