"""The base of callbacks whose step takes a second gradient of the same batches at other weights."""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import field
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Optimizer

from lightning_losses.callbacks.access import refuse_hidden_gradients, refuse_place_after
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.interventions.repeated_step import RepeatedStep, SeenBatch, not_averaged, seen
from lightning_losses.environment.lightning_internals import around_training_steps, plain_training_steps
from lightning_losses.environment.repeated_batch import running


class SecondGradient(DeclaredCallback):
    """Base of the callbacks that run a step's batches again, and give the optimizer another gradient.

    The module needs to know nothing of it. After the backward passes of an optimizer step, a subclass's
    `change_gradients` has the batches run again (`RepeatedStep.repeat`), at the weights as they are or within
    `perturbed` ones, and leaves the gradients with which the optimizer goes on. All accumulated batches run again, with
    the same random numbers and buffers; under DDP and FSDP2 each gradient is that of all processes. A further pass
    leaves no trace: logs, torchmetrics' states, buffers such as running statistics, and what the library's mixins keep
    of samples are those of the first pass. Of Lightning's hooks it runs the module's `on_after_backward` alone.

    Callbacks that change gradients come after it in the trainer's list, and with gradient clipping act on the
    gradient that it leaves. Under float16 AMP it works on unscaled gradients; where a gradient overflows, in whichever
    pass, the scaler skips the step as ever. State of a module that is neither a buffer nor a metric, and a batch that
    the step changes in place, are not put back.

    Attributes:
        repeats_batches: True; modules that take several steps per batch refuse such a callback.

    Raises:
        ValueError: manual optimization; a step that takes ``dataloader_iter``; a second callback of this kind; a place
            after `Grokfast` or `OrthogonalGradient`; a fused optimizer under float16 AMP; FSDP1 or DeepSpeed; sparse
            gradients.
    """

    repeats_batches: ClassVar[bool] = True

    _seen: list[SeenBatch] = field(init=False, default_factory=list)
    _training_step: Callable[..., Any] | None = field(init=False, default=None)

    @property
    def keeps_own_gradients(self) -> bool:
        """Whether the first pass leaves each process its own gradient; only DDP can."""
        return False

    def change_gradients(self, step: RepeatedStep) -> None:
        """Change the step's gradients, those of `RepeatedStep.weights`."""
        raise NotImplementedError

    def note(self, output: Any) -> Any:
        """What to keep of the first pass's output of a batch, for `RepeatedStep.noted`."""
        return None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what can't be repeated, and see every training step."""
        self._refuse(trainer, pl_module)
        # After an exception nothing is torn down, and the same trainer may fit again.
        self.teardown(trainer, pl_module, "fit")
        self._seen.clear()
        around_training_steps(trainer, lambda training_step: self._watched(trainer, pl_module, training_step))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Take the second gradient before this optimizer steps."""
        batches, self._seen = self._seen, []
        if not batches:
            return
        assert self._training_step is not None
        step = RepeatedStep(trainer, pl_module, optimizer, batches, self._training_step)
        # Another callback, or a step without a loss, has left nothing to do.
        gradients = [weight.grad for weight in step.weights.values() if weight.grad is not None]
        if not gradients:
            return
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError(f"{self.name}: sparse gradients came, which have no norm here; give sparse=False.")
        with step.undisturbed():
            self.change_gradients(step)
        step.finish()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the training steps alone."""
        if self._training_step is not None:
            plain_training_steps(trainer)
            self._training_step = None

    def _watched(
        self, trainer: L.Trainer, module: L.LightningModule, training_step: Callable[..., Any]
    ) -> Callable[..., Any]:
        """The strategy's training step, which notes what its batch needs to run again."""
        self._training_step = training_step
        strategy = trainer.strategy
        alone = self.keeps_own_gradients and isinstance(strategy, DDPStrategy)

        def watched(*arguments: Any) -> Any:
            batch = seen(module, arguments, trainer.accumulate_grad_batches)
            # DDP decides in the forward pass whether the backward pass averages.
            with running(module, batch.batch), not_averaged(strategy) if alone else nullcontext():
                output = training_step(*arguments)
            if output is not None:
                batch.noted = self.note(output)
                self._seen.append(batch)
            return output

        return watched

    def _refuse(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        name = self.name
        refuse_hidden_gradients(name, trainer)
        reason = "whose changes of the first gradient the optimizer would never see"
        refuse_place_after(trainer, self, Grokfast, OrthogonalGradient, reason=reason)
        callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
        if others := [one.name for one in callbacks if isinstance(one, SecondGradient) and one is not self]:
            raise ValueError(f"{name}: {others[0]} came beside it, and each takes the step's gradient; choose one.")
        if not module.automatic_optimization:
            raise ValueError(
                f"{name}: automatic_optimization=False came, so that running a step again would take another; use "
                "automatic optimization."
            )
        if "dataloader_iter" in inspect.signature(module.training_step).parameters:
            raise ValueError(f"{name}: a training_step of dataloader_iter came, whose batches run once; take batches.")
        fused = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in trainer.optimizers)
        if getattr(trainer.precision_plugin, "scaler", None) is not None and fused:
            raise ValueError(f"{name}: a fused optimizer unscales AMP's gradients too late; give fused=False.")
        if self.keeps_own_gradients and trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise ValueError(
                f"{name}: local=True came with {type(trainer.strategy).__name__}, which has no gradients of single "
                "processes; use DDP, or local=False."
            )
