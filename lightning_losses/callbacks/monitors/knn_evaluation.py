"""Watches how well nearest neighbours tell the classes by a layer's features, after epochs."""

import lightning as L
import torch

from lightning_losses.callbacks.monitors.evaluation import EvaluationMonitor
from lightning_losses.metrics.neighbours import knn_accuracy
from lightning_losses.numerics.settings import Count, Temperature
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class KNNEvaluation(EvaluationMonitor):
    """Logs the share of validation samples whose class their nearest training samples vote for, by a layer's features.

    The usual measure of features that were learned without labels: nothing is trained. All processes search the
    neighbours among the training rows of all.

    Cost: a forward pass of `samples` training rows and of the validation data, every n epochs, whose features each
    process keeps in memory meanwhile; no matrix of all pairs.

    Args:
        layer: the name of the module whose output, averaged over all but its first two dimensions, is compared.
        k: neighbours, at least 1; at most all are taken.
        temperature: a neighbour of cosine s has exp(s / temperature) votes; None for one vote each.
        samples: training rows per process, at least 1.
        every_n_epochs, ignore_index, folder: see `EvaluationMonitor`.

    Raises:
        ValueError: a layer that the module does not have; no validation data; no targets.

    Source:
        Wu, Xiong, Yu, Lin, 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
        arXiv:1805.01978.

    Example:
        >>> KNNEvaluation("network.body", every_n_epochs=5).k
        20
    """

    name = "knn_evaluation"

    layer: str
    k: Count = 20
    temperature: Temperature | None = 0.07
    samples: Count = 4096

    def layers(self) -> tuple[str]:
        """The layer."""
        return (self.layer,)

    def evaluate(self, trainer: L.Trainer, module: L.LightningModule, device: torch.device) -> dict[str, float]:
        """Search each validation sample's neighbours."""
        bank = self.rows_of_training(trainer, module, device, self.samples)
        asked = self.rows_of_validation(trainer, module, device)
        if len(asked.target) == 0:
            return {}
        rows = bank.features[self.layer], bank.target, asked.features[self.layer], asked.target
        return {"knn_accuracy": knn_accuracy(*rows, k=self.k, temperature=self.temperature).item()}

    def figure(self) -> Figure:
        """The accuracy over steps."""
        return value_curves(self.curves(), ylabel="validation accuracy", highlight="all")
