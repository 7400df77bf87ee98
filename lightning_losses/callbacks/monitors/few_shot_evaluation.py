"""Watches how well a layer's features tell new classes from a few samples of each, after epochs."""

import math
from dataclasses import field
from typing import Annotated, NamedTuple

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.callbacks.monitors.evaluation import EvaluationMonitor, LayerRows
from lightning_losses.numerics.settings import Bound, Count, Seed
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure
from lightning_losses.transduction import LaplacianKMeans


class FewShotEvaluation(EvaluationMonitor):
    """Logs the accuracy of few-shot classification of the validation data, by a layer's features.

    Each episode draws some classes, a few labelled samples of each, and others to classify. ``accuracy`` is that of the
    nearest mean of the labelled samples, each by itself; ``transductive_accuracy`` that of `method`, which looks at all
    samples of the episode. Both are of the same episodes, which are the same after every epoch, and chance is one over
    `ways`. The validation data may have classes that the training data does not, as in metric learning.

    Cost: a forward pass of the validation data, every n epochs, and some 10 ms an episode on a core.

    Args:
        layer: the name of the module whose output, averaged over all but its first two dimensions, is read.
        method: the transductive classifier.
        ways: classes of an episode, at least 2.
        shots: labelled samples of each.
        queries: samples of each to classify.
        episodes: how many there are.
        seed: decides them.
        every_n_epochs, ignore_index, folder: see `EvaluationMonitor`.

    Raises:
        ValueError: a layer that the module does not have; no validation data; fewer than `ways` classes that have
            `shots` + `queries` samples.

    Source:
        Snell, Swersky, Zemel, 2017, "Prototypical Networks for Few-shot Learning", arXiv:1703.05175, on nearest means.

    Example:
        >>> FewShotEvaluation("network.pool", shots=5).ways
        5
    """

    name = "few_shot_evaluation"

    layer: str
    method: LaplacianKMeans = field(default_factory=LaplacianKMeans)
    ways: Annotated[int, Bound(least=2)] = 5
    shots: Count = 1
    queries: Count = 15
    episodes: Count = 100
    seed: Seed = 0

    def layers(self) -> tuple[str]:
        """The layer."""
        return (self.layer,)

    def evaluate(self, trainer: L.Trainer, module: L.LightningModule, device: torch.device) -> dict[str, float]:
        """Classify the queries of every episode."""
        rows = self.rows_of_validation(trainer, module, device)
        if len(rows.target) == 0:
            return {}
        random = torch.Generator().manual_seed(self.seed)
        right = torch.zeros(2, dtype=torch.float64)
        features, target = _in_one_order(rows, self.layer)
        if not bool(features.isfinite().all()):
            return {"accuracy": math.nan, "transductive_accuracy": math.nan}
        for _ in range(self.episodes):
            episode = self._episode(features, target, random)
            means = episode.support.reshape(self.shots, self.ways, -1).mean(dim=0)
            nearest = torch.cdist(episode.queries, means).argmin(dim=1)
            together = self.method(episode.support, episode.label, episode.queries).label
            right += torch.stack([(found == episode.wanted).double().mean() for found in (nearest, together)])
        accuracy, transductive = (right / self.episodes).tolist()
        return {"accuracy": accuracy, "transductive_accuracy": transductive}

    def _episode(
        self, features: Float[Tensor, "samples d"], target: Int[Tensor, " samples"], random: torch.Generator
    ) -> "_Episode":
        """Samples of some classes, class by class within each shot."""
        each = self.shots + self.queries
        classes, counts = torch.unique(target, return_counts=True)
        classes = classes[counts >= each]
        if len(classes) < self.ways:
            raise ValueError(
                f"{self.name}: {len(classes)} classes of the validation data have {each} samples; give at least "
                f"{self.ways}, or fewer ways, shots or queries."
            )
        chosen = classes[torch.randperm(len(classes), generator=random)[: self.ways]]
        samples = []
        for one in chosen:
            own = (target == one).nonzero().flatten()
            samples.append(own[torch.randperm(len(own), generator=random)[:each]])
        drawn = features[torch.stack(samples, dim=1).flatten()]
        label = torch.arange(self.ways).repeat(each)
        labelled = self.shots * self.ways
        return _Episode(drawn[:labelled], label[:labelled], drawn[labelled:], label[labelled:])

    def figure(self) -> Figure:
        """The accuracies over steps."""
        return value_curves(self.curves(), ylabel="accuracy", highlight="all")


class _Episode(NamedTuple):
    support: Float[Tensor, "labelled d"]
    label: Int[Tensor, " labelled"]
    queries: Float[Tensor, "unlabelled d"]
    wanted: Int[Tensor, " unlabelled"]


def _in_one_order(rows: LayerRows, layer: str) -> tuple[Float[Tensor, "samples d"], Int[Tensor, " samples"]]:
    """Rows in the order of their sums, on the host: however many processes gathered them, an episode has the same."""
    features = rows.features[layer].double().cpu()
    order = features.sum(dim=1).argsort()
    return features[order], rows.target.cpu()[order]
