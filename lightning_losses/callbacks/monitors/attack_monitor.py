"""The base of monitors that attack the batches of validation and test."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from typing import Any

import lightning as L
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lightning_losses.attacks.attack import Attack
from lightning_losses.attacks.for_data import for_data
from lightning_losses.callbacks.access import evaluation_mode
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.probe import inputs_and_target, refuse_tokens
from lightning_losses.numerics.rows import class_indices, labelled_rows
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import values_of_all
from lightning_losses.parallel.sharding import is_sharded, unsharded_copy

# By name, one number for each class.
Sums = dict[str, Tensor]


class AttackMonitor(Monitor):
    """Base of the monitors that attack the batches of validation and test; they change nothing.

    What they measure is over the samples of all processes; those that a distributed sampler repeats count twice. It is
    logged as ``test/<name>/...`` and ``val/<name>/...``, which `ModelCheckpoint` can watch; during a fit loggers have
    it as ``<name>/...``, as that of other monitors. The module is called on a batch's inputs, in evaluation mode and in
    the trainer's precision; samples without a target are left out. Random starts are drawn by each sample's `index`,
    where batches have it, and by its place in the batch where not. An attack that has bounds and no `mean` and `std`
    gets those of the trainer's data module. Under FSDP2 each process attacks a temporary copy with whole weights.

    Args:
        every_n_epochs: epochs between measurements in training, at least 1; each costs some passes for each step of the
            attacks. Outside of training each validation is measured.
        max_batches: how many batches of each validation or test are attacked, on each process; None for all.
        ignore_index: the target of ignored rows; None takes the module's `ignore_index`, or that of its losses.
        folder: see `Monitor`.
    """

    _: KW_ONLY
    every_n_epochs: Count = 1
    max_batches: Count | None = None
    ignore_index: int | None = None
    # Counts epochs, not steps.
    every_n_steps: int = field(init=False, default=1)
    _measures: bool = field(init=False, default=False)
    _sums: dict[int, Sums] = field(init=False, default_factory=dict)
    _copy: nn.Module | None = field(init=False, default=None)

    def sums(
        self,
        trainer: L.Trainer,
        network: nn.Module,
        inputs: Tensor,
        target: Int[Tensor, " rows"],
        keys: Int[Tensor, " rows"] | None,
    ) -> Mapping[str, Tensor]:
        """What is added up over rows by name: [classes] each, or [1]; "samples" is one of the names."""
        raise NotImplementedError

    def summary(self, sums: Sums) -> dict[str, float]:
        """What is logged of the sums over all processes, by name."""
        raise NotImplementedError

    def told(self, trainer: L.Trainer, attack: Any) -> Any:
        """An attack that knows how the trainer's data module normalised."""
        return for_data(attack, getattr(trainer, "datamodule", None)) if isinstance(attack, Attack) else attack

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew, where it is time."""
        fits = trainer.state.fn == "fit"
        due = not fits or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._begin(pl_module, due and not trainer.sanity_checking)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._begin(pl_module, True)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack the batch."""
        self._add(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack the batch."""
        self._add(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what was measured, and keep it for the picture."""
        fits = trainer.state.fn == "fit"
        values = self._finish(pl_module, "val", logger=False if fits else None)
        if values and fits:
            self.record(trainer, trainer.global_step, values)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what was measured."""
        self._finish(pl_module, "test")

    def _begin(self, module: L.LightningModule, measures: bool) -> None:
        self._measures, self._sums, self._copy = measures, {}, None
        if measures and is_sharded(module):
            # Attacks need weights that were not made in inference mode.
            with torch.inference_mode(False), torch.no_grad():
                self._copy = unsharded_copy(module)

    def _add(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, number: int, loader: int) -> None:
        if not self._measures or (self.max_batches is not None and number >= self.max_batches):
            return
        inputs, target = inputs_and_target(self.name, batch)
        refuse_tokens(self.name, target)
        kept = labelled_rows(target, *ignored_targets(module, self.ignore_index))
        if not bool(kept.any()):
            return
        index = batch.get("index") if isinstance(batch, Mapping) else None
        inputs, target, keys = inputs[kept], target[kept], None if index is None else index[kept]
        network = module if self._copy is None else self._copy
        with evaluation_mode(network), trainer.precision_plugin.forward_context():
            measured = self.sums(trainer, network, inputs, class_indices(target), keys)
        held = self._sums.setdefault(loader, {})
        for name, value in measured.items():
            # On the host: attacks wait for the device anyway.
            value = value.detach().double().cpu() if value.device.type != "mps" else value.detach().cpu().double()
            held[name] = held[name] + value if name in held else value

    def _finish(self, module: L.LightningModule, stage: str, logger: bool | None = None) -> dict[str, float]:
        if not self._measures:
            return {}
        gathered = values_of_all(self._sums)
        self._measures, self._sums, self._copy = False, {}, None
        loaders = sorted({loader for sums in gathered for loader in sums})
        values: dict[str, float] = {}
        for loader in loaders:
            parts = [sums[loader] for sums in gathered if loader in sums]
            total = {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}
            prefix = "" if len(loaders) == 1 else f"{loader}/"
            values |= {f"{prefix}{name}": value for name, value in self.summary(total).items()}
        # Every process has the same values, so their mean is the value itself.
        named = {f"{stage}/{self.name}/{name}": value for name, value in values.items()}
        module.log_dict(named, logger=logger, sync_dist=True)
        return values
