"""Finds the batch, term, tensor and layer that made a loss infinite or NaN, before the weights become so."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_losses.callbacks.access import refuse_place_after, refuse_place_before
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.checkpoints.epoch_seed import EpochSeed
from lightning_losses.diagnostics.numerics import Cause, find_cause, save_batch
from lightning_losses.mixins.training_means import TrainingMeans
from lightning_losses.numerics.settings import Bound, Count
from lightning_losses.parallel.processes import maximum_of_all, world_size


class _Seen(NamedTuple):
    """A batch of the optimizer step that is under way, and what its replay needs."""

    batch: Any
    number: int
    random: Tensor
    finite: list[Tensor]


class NotFiniteError(ValueError):
    """Training stopped, since its loss was infinite or NaN."""


class NumericsGuard(DeclaredCallback):
    """Stops, or skips the step, when a loss is infinite or NaN, and says where that began.

    The loss is looked at after the backward pass and before the optimizer changes a weight. If it is not finite, the
    step's batches run once more with a look at every layer's output: the first term, tensor and layer that are not
    finite are named, and the batch is saved with the weights, so that `lightning_losses.diagnostics.numerics.replay`
    finds the same again. Batches of an accumulated step count together, and all processes decide together.

    A skipped step changes neither weights nor optimizer state nor buffers (running statistics among them), and is in no
    mean that a mixin logs; it counts as a step, so that schedules go on. Under float16 AMP the scaler lowers its scale
    as for any step that it skips. Put this callback before those that change gradients.

    Cost: a look at one number a step, about 20 microseconds on the CPU. On an accelerator the host waits for the device
    once a step; several processes exchange one number. `gradients` adds a norm of each parameter's gradient; `skip`
    adds a copy of the buffers.

    Args:
        folder: where the batch goes; ``numerics/`` in the trainer's root folder if None.
        gradients: also look at the gradients; the scaler of float16 AMP does so anyway, and they are left to it.
        skip: leave out steps that are not finite, in place of stopping.
        max_consecutive: how many steps may be left out in a row before it stops all the same.
        save: of how many steps that are not finite the batch is saved.

    Attributes:
        skipped: the steps left out so far.
        cause: what the last step that was not finite died of.
        repeats_batches: True; a module that does several steps for a batch refuses such a callback.

    Raises:
        ValueError: settings out of range; a place behind `Grokfast` or `OrthogonalGradient`, or before `EpochSeed`; in
            training (`NotFiniteError`), a loss that is not finite, or too many of them in a row.

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
        """Whether a step may be left out after its backward pass; the means of an epoch wait for that."""
        return self.skip

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a place in which it would look too late, or draw other random numbers again."""
        refuse_place_after(trainer, self, Grokfast, OrthogonalGradient)
        refuse_place_before(trainer, self, EpochSeed)

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
        """Look at the loss, without waiting for it."""
        if self._seen:
            self._seen[-1].finite.append(torch.isfinite(loss.detach()).all())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Let a finite step pass; find what broke another one."""
        self._done = True
        flags = [flag for seen in self._seen for flag in seen.finite]
        if self.gradients and getattr(trainer.precision_plugin, "scaler", None) is None:
            norms = torch._foreach_norm([_local(p.grad) for p in pl_module.parameters() if p.grad is not None])
            flags += [torch.isfinite(norm) for norm in norms]
        if flags:
            self._judge(trainer, pl_module, flags)
        if self.skip and isinstance(pl_module, TrainingMeans):
            pl_module.log_finished_means()

    def _judge(self, trainer: L.Trainer, pl_module: L.LightningModule, flags: list[Tensor]) -> None:
        """Let the step be, leave it out, or stop."""
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
        """Log how many steps were left out, once there are any."""
        if self.skipped and self._done:
            # The same number on every process.
            options: dict[str, Any] = {"on_step": False, "on_epoch": True, "reduce_fx": "max", "sync_dist": True}
            pl_module.log("train/skipped_steps", float(self.skipped), **options)

    def _explain(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Run the step's batches again until one is found not finite, on all processes alike."""
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
            folder = self.folder or Path(trainer.default_root_dir) / "numerics"
            path = Path(folder) / f"step-{trainer.global_step:08d}-process-{trainer.global_rank}.safetensors"
            save_batch(path, module, chosen.batch, chosen.number, chosen.random, clock)
            message += f" The batch and the weights are in {path}."
        self.cause = cause._replace(message=message)


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
