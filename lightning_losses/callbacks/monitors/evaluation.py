"""The base of monitors that evaluate layers' features of the training and the validation data after epochs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, field
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.callbacks.access import on_device, refuse_hidden_gradients, sum_over_processes
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.probe import evaluating, inputs_and_target, refuse_tokens, with_target
from lightning_losses.numerics.rows import class_indices
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import rows_of_all
from lightning_losses.parallel.sharding import is_sharded, unsharded_copy
from lightning_losses.teachers.feature_taps import FeatureTap, channel_means


class LayerRows(NamedTuple):
    """Features of samples and their classes."""

    features: dict[str, Float[Tensor, "samples d"]]
    target: Int[Tensor, " samples"]


class EvaluationMonitor(Monitor):
    """Base of the monitors that evaluate layers' features after epochs, in evaluation mode; they change nothing.

    The module is called on a batch's inputs. Layers' outputs are averaged over all but their first two dimensions.
    Samples without a target are left out; those that a distributed sampler repeats count twice. Under FSDP2 each
    process evaluates a temporary copy with whole weights.

    Args:
        every_n_epochs: epochs between measurements, at least 1.
        ignore_index: the target of ignored rows; None takes the module's `ignore_index`, or that of its losses.
        folder: see `Monitor`.
    """

    _: KW_ONLY
    every_n_epochs: Count = 1
    ignore_index: int | None = None
    # Counts epochs, not steps.
    every_n_steps: int = field(init=False, default=1)

    def layers(self) -> Sequence[str]:
        """The names of the layers that are read."""
        raise NotImplementedError

    def evaluate(self, trainer: L.Trainer, module: L.LightningModule, device: torch.device) -> Mapping[str, float]:
        """The values to record, by name, the same on every process; empty where there is nothing to measure."""
        raise NotImplementedError

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the layers' names, and that there is something to validate on."""
        refuse_hidden_gradients(self.name, trainer)
        FeatureTap(pl_module, self.layers(), self.name).close()
        if not trainer.enable_validation:
            raise ValueError(f"{self.name}: the trainer has no validation; give it validation data.")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Refuse data without classes of samples at their first batch, not after the epoch."""
        if batch_idx == 0:
            target = inputs_and_target(self.name, batch)[1]
            refuse_tokens(self.name, target)
            if target.is_floating_point() and (target.ndim == 1 or target.shape[1] == 1):
                raise ValueError(
                    f"{self.name}: a target of numbers of shape {list(target.shape)} came; it measures samples of one "
                    "class each, so leave it out of the training of a regression."
                )

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, where it is time."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        if trainer.val_dataloaders is None:
            raise ValueError(
                f"{self.name}: there was no validation before this epoch's end; let every_n_epochs be a multiple of "
                "the trainer's check_val_every_n_epoch."
            )
        # Processes differ in how many batches give them their rows, and FSDP2's forward passes are of all at once.
        module: Any = unsharded_copy(pl_module) if is_sharded(pl_module) else pl_module
        with evaluating(module), torch.no_grad():
            values = self.evaluate(trainer, module, pl_module.device)
        if values:
            self.record(trainer, trainer.global_step, values)

    def batches(self, module: L.LightningModule, loader: Any, device: torch.device) -> Iterator[LayerRows]:
        """The features and classes of a loader's batches, where they have a target."""
        ignored = ignored_targets(module, self.ignore_index)
        with FeatureTap(module, self.layers(), self.name) as tap:
            for batch in loader or []:
                inputs, target = with_target(*inputs_and_target(self.name, batch), *ignored)
                if len(target):
                    module(module.trainer.precision_plugin.convert_input(inputs.to(device)))
                    pooled = {layer: channel_means(output.detach()) for layer, output in tap.latest().items()}
                    yield LayerRows(pooled, class_indices(target).to(device))

    def rows_of_training(self, trainer: L.Trainer, module: L.LightningModule, device: torch.device, most: int) -> Any:
        """The features and classes of the first training rows of each process, from all of them.

        Raises:
            ValueError: no sample with a target on any process.
        """
        parts: list[LayerRows] = []
        rows = 0
        for part in self.batches(module, trainer.train_dataloader, device):
            own = slice(most - rows)
            parts.append(LayerRows({layer: x[own] for layer, x in part.features.items()}, part.target[own]))
            rows += len(parts[-1].target)
            if rows >= most:
                break
        refuse_no_target(self.name, trainer, rows)
        return self._of_all(parts, device)

    def rows_of_validation(self, trainer: L.Trainer, module: L.LightningModule, device: torch.device) -> LayerRows:
        """The features and classes of all validation data, from all processes; there may be none."""
        return self._of_all(
            [part for loader in loaders(trainer) for part in self.batches(module, loader, device)], device
        )

    def _of_all(self, parts: Sequence[LayerRows], device: torch.device) -> LayerRows:
        # A process without rows doesn't know the width.
        none, no_class = torch.zeros(0, 0, device=device), torch.zeros(0, dtype=torch.int64, device=device)

        def joined(own: list[Tensor], nothing: Tensor) -> Tensor:
            return torch.cat(rows_of_all(torch.cat(own) if own else nothing))

        features = {layer: joined([part.features[layer] for part in parts], none) for layer in self.layers()}
        return LayerRows(features, joined([part.target for part in parts], no_class))


def loaders(trainer: L.Trainer) -> list[Any]:
    """The trainer's validation loaders."""
    given: Any = trainer.val_dataloaders
    return list(given) if isinstance(given, list | tuple) else [given]


def refuse_no_target(who: str, trainer: L.Trainer, rows: int) -> None:
    """Raise ``ValueError``, on every process, where none has a training sample with a target."""
    if not bool(sum_over_processes(trainer, on_device(trainer, [float(rows)])).sum()):
        raise ValueError(
            f"{who}: no sample of the training data has a target; give data with targets, or leave this callback out."
        )
