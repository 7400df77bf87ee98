"""Watches how well a linear classifier tells the classes by a layer's features, after epochs."""

from collections.abc import Iterator
from dataclasses import field
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.access import on_device, refuse_hidden_gradients, sum_over_processes
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.probe import evaluating, inputs_and_target, refuse_tokens, with_target
from lightning_losses.diagnostics.linear_heads import (
    ClassMoments,
    LinearHead,
    class_moments,
    gaussian_nb_head,
    logistic_head,
    merged_moments,
)
from lightning_losses.numerics.rows import class_indices
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.parallel.processes import gather_batch, maximum_of_all
from lightning_losses.parallel.sharding import is_sharded, unsharded_copy
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure
from lightning_losses.teachers.feature_taps import FeatureTap


class LinearEvaluation(Monitor):
    """Logs the validation accuracy of a linear classifier that is fitted to a layer's training features.

    The module is called on a batch's inputs, in evaluation mode, and changes in nothing. All processes together fit one
    classifier: to naive Bayes each hands the moments of its classes, to logistic regression its features. Samples
    without a target are left out; those that a distributed sampler repeats count twice.

    Cost: a forward pass of `samples` training rows and of the validation data, every n epochs; logistic regression
    keeps the features of `samples` rows of each process in memory, and takes up to 100 passes over them.

    Args:
        layer: the name of the module whose output is classified, averaged over all but its first two dimensions.
        num_classes: the number of classes.
        head: "nb" is `gaussian_nb_head`, naive Bayes, which is fitted in one pass; "logistic" is `logistic_head`.
        samples: training rows per process, at least 1.
        every_n_epochs: epochs between measurements, at least 1.
        ignore_index: the target of ignored rows; None takes the module's `ignore_index`, or that of its losses.
        folder: see `Monitor`.

    Raises:
        ValueError: a layer that the module does not have; no validation data; targets outside the classes.

    Source:
        For naive Bayes: Zheng, Wu, Bao, Cao, Li, Zhu, 2023, "Revisiting Discriminative vs. Generative Classifiers:
        Theory and Implications", arXiv:2302.02334.

    Example:
        >>> LinearEvaluation("network.body", num_classes=10, every_n_epochs=5).head
        'nb'
    """

    name = "linear_evaluation"

    layer: str
    num_classes: Count
    head: Literal["nb", "logistic"] = "nb"
    samples: Count = 4096
    every_n_epochs: Count = 1
    ignore_index: int | None = field(default=None, kw_only=True)
    # Counts epochs, not steps.
    every_n_steps: int = field(init=False, default=1)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the layer's name, and that there is something to validate on."""
        refuse_hidden_gradients(self.name, trainer)
        FeatureTap(pl_module, [self.layer], self.name).close()
        if not trainer.enable_validation:
            raise ValueError(f"{self.name}: the trainer has no validation; give it validation data.")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Refuse data without classes of samples at their first batch, not after the epoch."""
        if batch_idx == 0:
            refuse_tokens(self.name, inputs_and_target(self.name, batch)[1])

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit the classifier, and measure it."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        loaders = trainer.val_dataloaders
        if loaders is None:
            raise ValueError(
                f"{self.name}: there was no validation before this epoch's end; let every_n_epochs be a multiple of "
                "the trainer's check_val_every_n_epoch."
            )
        module: Any = unsharded_copy(pl_module) if is_sharded(pl_module) else pl_module
        device = pl_module.device
        # A shuffling loader draws its seed from torch's random state, which training must find unchanged.
        with torch.random.fork_rng(devices=[]), evaluating(module), torch.no_grad():
            head = self._fitted(trainer, self._batches(module, trainer.train_dataloader, device), device)
            hits = on_device(trainer, [0.0, 0.0])
            for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
                for features, target in self._batches(module, loader, device):
                    right = (head.logits(features).argmax(dim=1) == target).sum()
                    hits += on_device(trainer, [float(right), float(len(target))])
        right, number = sum_over_processes(trainer, hits).tolist()
        if number:
            self.record(trainer, trainer.global_step, {f"{self.head}_accuracy": right / number})

    def figure(self) -> Figure:
        """The accuracy over steps."""
        return value_curves(self.curves(), ylabel="validation accuracy", highlight="all")

    def _batches(self, module: L.LightningModule, loader: Any, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """The features and classes of a loader's batches, where they have a target."""
        ignored = ignored_targets(module, self.ignore_index)
        with FeatureTap(module, [self.layer], self.name) as tap:
            for batch in loader or []:
                inputs, target = with_target(*inputs_and_target(self.name, batch), *ignored)
                if len(target):
                    module(inputs.to(device))
                    output = tap.latest()[self.layer].detach()
                    pooled = output.flatten(2).mean(dim=2) if output.ndim > 2 else output
                    yield pooled, class_indices(target).to(device)

    def _fitted(self, trainer: L.Trainer, batches: Iterator[tuple[Tensor, Tensor]], device: torch.device) -> LinearHead:
        """The classifier of all processes' training rows."""
        rows, refusal = 0, ""
        moments: list[ClassMoments] = []
        kept: list[tuple[Tensor, Tensor]] = []
        for features, target in batches:
            features, target = features[: self.samples - rows], target[: self.samples - rows]
            rows += len(target)
            try:
                moments = [merged_moments(*moments, class_moments(features, target, self.num_classes))]
            except ValueError as error:
                refusal = str(error)
            if self.head == "logistic":
                kept.append((features, target))
            if rows >= self.samples:
                break
        # No process waits for what another that has refused its rows would send.
        wrong, number = sum_over_processes(trainer, on_device(trainer, [float(bool(refusal)), float(rows)])).tolist()
        if wrong:
            raise ValueError(f"{self.name}: {refusal or 'another process refused its samples, and says why.'}")
        if not number:
            raise ValueError(
                f"{self.name}: no sample of the training data has a target; give data with targets, or leave this "
                "callback out."
            )
        # A process without rows doesn't know the width.
        width = int(maximum_of_all(torch.tensor(moments[0].mean.shape[1] if moments else 0, device=device)))
        nothing = torch.zeros(0, width, device=device), torch.zeros(0, dtype=torch.int64, device=device)
        if self.head == "logistic":
            features, target = (gather_batch(torch.cat(parts)) for parts in zip(nothing, *kept, strict=True))
            return logistic_head(features, target, self.num_classes)
        own = merged_moments(class_moments(*nothing, self.num_classes), *moments)
        joined = gather_batch(torch.cat([own.samples.unsqueeze(1), own.mean, own.deviation], dim=1).unsqueeze(0))
        parts = [ClassMoments(part[:, 0], *part[:, 1:].chunk(2, dim=1)) for part in joined]
        return gaussian_nb_head(merged_moments(*parts))
