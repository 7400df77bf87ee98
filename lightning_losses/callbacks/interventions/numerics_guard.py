"""Finds the batch, term, tensor and layer that made a loss infinite or NaN, before the weights do."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_losses.callbacks.access import refuse_place_after, refuse_place_before, refuse_unwritable
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.interventions.second_gradient import SecondGradient
from lightning_losses.checkpoints.epoch_seed import EpochSeed
from lightning_losses.diagnostics.numerics import Cause, find_cause, save_batch
from lightning_losses.mixins.training_means import TrainingMeans
from lightning_losses.numerics.settings import Bound, Count
from lightning_losses.parallel.processes import maximum_of_all, world_size


class _Seen(NamedTuple):
    """A batch of the current optimizer step, and what its replay needs."""

    batch: Any
    number: int
    random: Tensor
    finite: list[Tensor]


class NotFiniteError(ValueError):
    """Training stopped because its loss was infinite or NaN."""


class NumericsGuard(DeclaredCallback):
    """Stops, or skips the step, when a loss is infinite or NaN, and names the cause.

    The loss is checked after the backward pass and before the optimizer changes a weight. If it is not finite, the
    step's batches run once more while every layer's output is checked. The first term, tensor and layer that are not
    finite are named, and the batch is saved with the weights, so that `lightning_losses.diagnostics.numerics.replay`
    reproduces the failure. The batches of an accumulated step are judged together, and all processes decide together.

    A skipped step changes neither weights nor optimizer state nor buffers (such as running statistics), and enters no
    mean that a mixin logs. It counts as a step, so schedules go on. Under float16 AMP the scaler lowers its scale as
    for any step that it skips itself. Put this callback before those that change gradients.

    Cost: one number is checked per step, about 20 microseconds on the CPU. On an accelerator the host waits for the
    device once per step; several processes exchange one number. `gradients` adds the largest entry of each gradient;
    `skip` adds a copy of the buffers.

    Args:
        folder: the folder of saved batches; None is ``numerics/`` in the trainer's root folder.
        gradients: also check the gradients; under float16 AMP that is left to the scaler, which does so anyway.
        skip: skip steps that are not finite, instead of stopping.
        max_consecutive: the largest number of steps skipped in a row; after one more it stops.
        save: the largest number of failed steps whose batch is saved.

    Attributes:
        skipped: the number of steps skipped so far.
        cause: why the last failed step was not finite.
        repeats_batches: True; modules that take several steps per batch refuse such a callback.

    Raises:
        ValueError: settings out of range; a place after `Grokfast`, `OrthogonalGradient` or `SecondGradient`, or before
            `EpochSeed`; in training (`NotFiniteError`), a loss that is not finite, or too many of them in a row.

    Example:
        >>> NumericsGuard(skip=True, max_consecutive=3).skipped
        0
    """

    name = "numerics_guard"
    kept = ("skipped", "_consecutive", "_saved")
    repeats_batches: ClassVar[bool] = True

    folder: str | Path | None = None
    gradients: bool = False
    skip: bool = False
    max_consecutive: Count = 10
    save: Annotated[int, Bound(least=0)] = 1
    skipped: int = field(init=False, default=0)
    cause: Cause | None = field(init=False, default=None)
    _consecutive: int = field(init=False, default=0)
    _saved: int = field(init=False, default=0)
    _seen: list[_Seen] = field(init=False, default_factory=list)
    _done: bool = field(init=False, default=True)
    _buffers: dict[str, Tensor] = field(init=False, default_factory=dict)

    @property
    def leaves_out_steps(self) -> bool:
        """Whether a step may be skipped after its backward pass; the means of an epoch wait for that decision."""
        return self.skip

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check at the start that a batch could be saved."""
        if self.save:
            refuse_unwritable(trainer, self._place(trainer))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a place in the list where it would check too late, or replay with other random numbers."""
        refuse_place_after(trainer, self, Grokfast, OrthogonalGradient, SecondGradient)
        refuse_place_before(trainer, self, EpochSeed)
        # An exception may have ended an earlier training within a step.
        self._seen.clear()
        self._done = True
        if trainer.global_step == 0:
            self.skipped = self._consecutive = self._saved = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch, by reference, and the state of the random numbers."""
        if self._done:
            self._seen.clear()
            self._done = False
            if self.skip:
                self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}
        self._seen.append(_Seen(batch, batch_idx, _random_state(pl_module.device), []))

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Check the loss on the device, without synchronising."""
        if self._seen:
            self._seen[-1].finite.append(torch.isfinite(loss.detach()).all())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Let a finite step pass; otherwise find the cause."""
        self._done = True
        flags = [flag for seen in self._seen for flag in seen.finite]
        if self.gradients and getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [_local(p.grad) for p in pl_module.parameters() if p.grad is not None]
            # An empty shard has no largest entry.
            gradients = [gradient for gradient in gradients if gradient.numel()]
            # In an epoch that only averages statistics there are none. The largest entry, since squares may overflow.
            norms = torch._foreach_norm(gradients, torch.inf) if gradients else []
            flags += [torch.isfinite(norm) for norm in norms]
        if flags:
            self._judge(trainer, pl_module, flags)
        if self.skip and isinstance(pl_module, TrainingMeans):
            pl_module.log_finished_means()

    def _judge(self, trainer: L.Trainer, pl_module: L.LightningModule, flags: list[Tensor]) -> None:
        """Keep the step, skip it, or stop."""
        bad = ~torch.stack([flag.to(flags[0].device) for flag in flags]).all()
        if not bool(maximum_of_all(bad.to(torch.float32)) if world_size() > 1 else bad):
            self._consecutive = 0
            return
        self._explain(trainer, pl_module)
        self.skipped += 1
        self._consecutive += 1
        if not self.skip or self._consecutive > self.max_consecutive:
            row = f", the {self._consecutive}th such step in a row" if self.skip else ""
            raise NotFiniteError(f"numerics_guard: {self.cause}{row}")
        for parameter in pl_module.parameters():
            parameter.grad = None
        with torch.no_grad():
            for name, buffer in pl_module.named_buffers():
                if name in self._buffers:
                    buffer.copy_(self._buffers[name])
        if isinstance(pl_module, TrainingMeans):
            pl_module.leave_out_step()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the number of skipped steps, once there are any."""
        if self.skipped and self._done:
            # Every process has the same number.
            options: dict[str, Any] = {"on_step": False, "on_epoch": True, "reduce_fx": "max", "sync_dist": True}
            pl_module.log("train/skipped_steps", float(self.skipped), **options)

    def _explain(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Run the step's batches again until one is not finite, in step on all processes."""
        after = _random_state(module.device)
        clock: dict[str, float] = getattr(module, "training_clock", dict)()
        chosen, cause = self._seen[-1], None
        for seen in self._seen:
            _set_random_state(module.device, seen.random)
            with trainer.precision_plugin.train_step_context():
                cause = find_cause(module, seen.batch, seen.number, gradients=self.gradients)
            found = torch.tensor(float(cause is not None), device=module.device)
            if cause is not None:
                chosen = seen
            if bool(maximum_of_all(found)):
                break
        _set_random_state(module.device, after)
        where = f"step {trainer.global_step}, batch {chosen.number}"
        if world_size() > 1:
            where += f", process {trainer.global_rank}"
        if cause is None:
            elsewhere = "on another process" if world_size() > 1 else "and was finite when it ran again"
            cause = Cause(f"the step was not finite {elsewhere}", None, None, None)
        message = f"{where}: {cause.message}."
        if self._saved < self.save:
            self._saved += 1
            path = self._place(trainer) / f"step-{trainer.global_step:08d}-process-{trainer.global_rank}.safetensors"
            try:
                save_batch(path, module, chosen.batch, chosen.number, chosen.random, clock)
                message += f" The batch and the weights are in {path}."
            except OSError as error:
                # What broke the step is not hidden by a full disk.
                message += f" The batch and the weights could not be saved ({error})."
        self.cause = cause._replace(message=message)

    def _place(self, trainer: L.Trainer) -> Path:
        return Path(self.folder or Path(trainer.default_root_dir) / "numerics")


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def _random_state(device: torch.device) -> Tensor:
    host = torch.get_rng_state()
    return host if device.type != "cuda" else torch.cat([host, torch.cuda.get_rng_state(device)])


def _set_random_state(device: torch.device, state: Tensor) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:], device)
