"""Watches what a projection head loses of the features before it, after epochs."""

from typing import Literal

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.monitors.evaluation import EvaluationMonitor
from lightning_losses.diagnostics.linear_heads import class_moments, gaussian_nb_head, logistic_head
from lightning_losses.diagnostics.projection_gap import projection_gap
from lightning_losses.numerics.settings import Count
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class ProjectionGap(EvaluationMonitor):
    """Logs effective rank and linear accuracy of the features before and after a projection, and both gaps.

    The ranks, ``rank_before`` and ``rank_after``, are of the validation features; ``accuracy_before`` and
    ``accuracy_after`` are the validation accuracy of a linear classifier that is fitted to training features. The gaps
    are before - after: above 0 where the projection loses what the features before it still have.

    Cost: a forward pass of `samples` training rows and of the validation data, every n epochs, whose features each
    process keeps in memory meanwhile.

    Args:
        before: the name of the module whose output the projection takes.
        after: the name of the projection.
        num_classes: the number of classes.
        head: "nb" is naive Bayes, "logistic" is logistic regression; see `LinearEvaluation`.
        samples: training rows per process, at least 1.
        every_n_epochs, ignore_index, folder: see `EvaluationMonitor`.

    Raises:
        ValueError: a layer that the module does not have; no validation data; no targets, or targets outside the
            classes.

    Source:
        Ours, for the question of Xue, Gan, Ni, Joshi, Mirzasoleiman, 2024, arXiv:2403.11391.

    Example:
        >>> ProjectionGap("network.body", "network.projection", num_classes=10).head
        'nb'
    """

    name = "projection_gap"

    before: str
    after: str
    num_classes: Count
    head: Literal["nb", "logistic"] = "nb"
    samples: Count = 4096

    def layers(self) -> tuple[str, str]:
        """Both layers."""
        return self.before, self.after

    def evaluate(self, trainer: L.Trainer, module: L.LightningModule, device: torch.device) -> dict[str, float]:
        """Measure both layers."""
        train = self.rows_of_training(trainer, module, device, self.samples)
        val = self.rows_of_validation(trainer, module, device)
        if len(val.target) == 0:
            return {}
        ranks = projection_gap(val.features[self.before], val.features[self.after])
        before, after = (
            self._accuracy(train.features[layer], train.target, val.features[layer], val.target)
            for layer in self.layers()
        )
        return {
            "rank_before": ranks.before.item(),
            "rank_after": ranks.after.item(),
            "rank_gap": ranks.gap.item(),
            "accuracy_before": before,
            "accuracy_after": after,
            "accuracy_gap": before - after,
        }

    def figure(self) -> Figure:
        """The accuracies over steps."""
        shown = {name: points for name, points in self.curves().items() if name.startswith("accuracy_")}
        return value_curves(shown, ylabel="validation accuracy", highlight="accuracy_before")

    def _accuracy(self, features: Tensor, target: Tensor, asked: Tensor, wanted: Tensor) -> float:
        head = (
            gaussian_nb_head(class_moments(features, target, self.num_classes))
            if self.head == "nb"
            else logistic_head(features, target, self.num_classes)
        )
        return float(head.hits(asked, wanted)) / len(wanted)
