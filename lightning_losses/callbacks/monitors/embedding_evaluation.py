"""Watches how validation embeddings lie to each other, also of classes that training does not have, after epochs."""

import lightning as L
import torch

from lightning_losses.callbacks.monitors.evaluation import EvaluationMonitor
from lightning_losses.metrics.alignment_uniformity import tolerance, uniformity
from lightning_losses.metrics.neighbours import knn_accuracy, nearest_class_mean_accuracy
from lightning_losses.metrics.opis import opis
from lightning_losses.numerics.settings import Positive, Share
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class EmbeddingEvaluation(EvaluationMonitor):
    """Logs how a layer's embeddings of the validation data lie to each other.

    - ``recall@1``: the share of samples whose nearest other is of their class.
    - ``nearest_class_mean_accuracy``: the share whose nearest class mean is their class's, of the others in it.
    - ``opis``, ``worst_opis``: whether one threshold serves all classes alike, and those it serves most differently.
    - ``uniformity``, ``tolerance``: how evenly embeddings cover the sphere, and how near samples of a class lie (the
      mean cosine of two of them).

    All are of the validation data alone: it may have classes that the training data does not, as in metric learning.
    Samples that a distributed sampler repeats find themselves; let the number of validation samples be a multiple of
    the processes'.

    Cost: a forward pass of the validation data, every n epochs, whose embeddings each process keeps in memory
    meanwhile, and its pairs, block by block: some 3 s for 4,096 samples on a core.

    Args:
        layer: the name of the module whose output, averaged over all but its first two dimensions, is evaluated.
        t: of `lightning_losses.metrics.uniformity`, above 0.
        worst_share: the share of classes of ``worst_opis``, from 0 to 1; at least one class.
        every_n_epochs, ignore_index, folder: see `EvaluationMonitor`.

    Raises:
        ValueError: a layer that the module does not have; no validation data; fewer than two classes in it; no class of
            two samples.

    Example:
        >>> EmbeddingEvaluation("network.body", every_n_epochs=5).layer
        'network.body'
    """

    name = "embedding_evaluation"

    layer: str
    t: Positive = 2.0
    worst_share: Share = 0.1

    def layers(self) -> tuple[str]:
        """The layer."""
        return (self.layer,)

    def evaluate(self, trainer: L.Trainer, module: L.LightningModule, device: torch.device) -> dict[str, float]:
        """Measure the validation data."""
        rows = self.rows_of_validation(trainer, module, device)
        if len(rows.target) == 0:
            return {}
        embeddings, target = rows.features[self.layer].double(), rows.target
        # The refusals come first: every process has the same rows.
        points = opis(embeddings, target, worst_share=max(self.worst_share, 1e-9))
        values = {
            "recall@1": knn_accuracy(embeddings, target, k=1),
            "nearest_class_mean_accuracy": nearest_class_mean_accuracy(embeddings, target),
            "opis": points.value,
            "worst_opis": points.worst,
            "uniformity": uniformity(embeddings, t=self.t),
            "tolerance": tolerance(embeddings, target, exclude_self=True, conditional=True),
        }
        return {name: value.item() for name, value in values.items()}

    def figure(self) -> Figure:
        """The measures over steps."""
        return value_curves(self.curves(), ylabel="value", highlight="recall@1")
