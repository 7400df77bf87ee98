"""Watches how well a linear classifier tells the classes by a layer's features, after epochs."""

from collections.abc import Iterator
from typing import Literal

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.access import on_device, sum_over_processes
from lightning_losses.callbacks.monitors.evaluation import EvaluationMonitor, LayerRows, loaders, refuse_no_target
from lightning_losses.diagnostics.linear_heads import (
    ClassMoments,
    LinearHead,
    class_moments,
    gaussian_nb_head,
    logistic_head,
    merged_moments,
)
from lightning_losses.numerics.settings import Count
from lightning_losses.parallel.processes import gather_batch, maximum_of_all
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class LinearEvaluation(EvaluationMonitor):
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
        every_n_epochs, ignore_index, folder: see `EvaluationMonitor`.

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

    def layers(self) -> tuple[str]:
        """The layer."""
        return (self.layer,)

    def evaluate(self, trainer: L.Trainer, module: L.LightningModule, device: torch.device) -> dict[str, float]:
        """Fit the classifier, and measure it."""
        head = self._fitted(trainer, self.batches(module, trainer.train_dataloader, device), device)
        hits = on_device(trainer, [0.0, 0.0])
        for loader in loaders(trainer):
            for features, target in self.batches(module, loader, device):
                right = head.hits(features[self.layer], target)
                hits += on_device(trainer, [float(right), float(len(target))])
        right, number = sum_over_processes(trainer, hits).tolist()
        return {f"{self.head}_accuracy": right / number} if number else {}

    def figure(self) -> Figure:
        """The accuracy over steps."""
        return value_curves(self.curves(), ylabel="validation accuracy", highlight="all")

    def _fitted(self, trainer: L.Trainer, batches: Iterator[LayerRows], device: torch.device) -> LinearHead:
        """The classifier of all processes' training rows."""
        rows, refusal = 0, ""
        moments: list[ClassMoments] = []
        kept: list[tuple[Tensor, Tensor]] = []
        for part in batches:
            features, target = part.features[self.layer][: self.samples - rows], part.target[: self.samples - rows]
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
        if bool(sum_over_processes(trainer, on_device(trainer, float(bool(refusal))))):
            raise ValueError(f"{self.name}: {refusal or 'another process refused its samples, and says why.'}")
        refuse_no_target(self.name, trainer, rows)
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
