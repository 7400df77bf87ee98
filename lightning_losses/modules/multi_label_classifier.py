"""A ready LightningModule for samples with any number of labels."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from lightning_losses.data.loading import named
from lightning_losses.environment.logged_means import log_means
from lightning_losses.modules.classifier import Batch, Classifier
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.objective import Objective
from lightning_losses.objective.ignored_targets import ignored_targets


class MultiLabelClassifier(Classifier):
    """Trains a network on samples with any number of labels, with any objective of `multi_hot`.

    Batches are mappings of `inputs` and `multi_hot` [B, C], or tuples of the two; a `target` of floating-point numbers
    [B, C] is taken for `multi_hot`. Validation and test log binary cross-entropy over the known labels as ``loss``,
    the mean over labels of the average precision as ``mean_average_precision``, and at a probability of 0.5
    ``micro_f1`` and ``macro_f1``. Labels that are not known count nothing.

    Args:
        network, objective: as `Classifier` takes them.
        num_classes: C, the number of labels.
        **options: optimizer, scheduler, feature_layer and example_inputs, likewise.

    Example:
        >>> from lightning_losses import Asymmetric, Objective
        >>> module = MultiLabelClassifier(torch.nn.Linear(4, 3), Objective({"asl": Asymmetric()}), num_classes=3)
        >>> batch = {"inputs": torch.zeros(2, 4), "multi_hot": torch.tensor([[1, 0, 1], [0, -100, 0]])}
        >>> module.training_step(batch, 0)["loss"].item() > 0
        True
    """

    def __init__(self, network: nn.Module, objective: Objective, num_classes: int, **options: Any) -> None:
        super().__init__(network, objective, num_classes, **options)
        metrics = MetricCollection(self.metrics(num_classes))
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def metrics(self, num_classes: int) -> dict[str, Any]:
        """What validation and test log beside the loss, by name."""
        return metrics_of(num_classes)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        given = self._labelled(batch)
        return self.apply_objective(logits=self(given["inputs"]), **given)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The logits of one batch."""
        return {"logits": self(named(type(self).__name__, batch)["inputs"])}

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> dict[str, Tensor]:
        given = self._labelled(batch)
        logits, multi_hot = self(given["inputs"]), given["multi_hot"]
        known = known_labels(multi_hot, *ignored_targets(self))
        loss, count = mean_entropy(logits, multi_hot, known), int(known.sum())
        if count:
            metrics.update(logits.float().sigmoid(), as_known(multi_hot, known))
        log_means(self, {f"{metrics.prefix}loss": loss}, count)
        self.log_dict(metrics, batch_size=count)
        return {"loss": loss, "logits": logits, "multi_hot": multi_hot}

    def _labelled(self, batch: Batch) -> dict[str, Tensor]:
        given = dict(named(type(self).__name__, batch))
        if "multi_hot" not in given and "target" in given and given["target"].ndim > 1:
            given["multi_hot"] = given.pop("target")
        if "multi_hot" not in given:
            raise ValueError(
                f"{type(self).__name__}: a batch of {', '.join(map(repr, given))} came; give 'multi_hot' [B, C], which "
                "of C labels each sample has."
            )
        return given


def metrics_of(labels: int) -> dict[str, Any]:
    """The metrics of many labels by name; what is not known is -100."""
    options: dict[str, Any] = {"num_labels": labels, "ignore_index": -100}
    return {
        "mean_average_precision": MultilabelAveragePrecision(average="macro", **options),
        "micro_f1": MultilabelF1Score(average="micro", **options),
        "macro_f1": MultilabelF1Score(average="macro", **options),
    }


def label_scores(
    logits: Float[Tensor, "samples labels"], multi_hot: Shaped[Tensor, "samples labels"], *ignored: int
) -> dict[str, float]:
    """The scores of logits over all samples, by the names of `metrics_of`.

    Example:
        >>> scores = label_scores(torch.tensor([[2.0, -1.0], [-3.0, 4.0]]), torch.eye(2))
        >>> scores["mean_average_precision"], scores["micro_f1"]
        (1.0, 1.0)
    """
    known = known_labels(multi_hot, *ignored)
    metrics = MetricCollection(metrics_of(logits.shape[-1]))
    metrics.update(logits.sigmoid(), as_known(multi_hot, known))
    with warnings.catch_warnings():
        # A label that no sample has is no part of the mean.
        warnings.filterwarnings("ignore", message="Average precision score for one or more classes was `nan`")
        return {name: float(value) for name, value in metrics.compute().items()}


def mean_entropy(
    logits: Float[Tensor, "samples labels"], multi_hot: Shaped[Tensor, "samples labels"], known: Tensor
) -> Float[Tensor, ""]:
    """Binary cross-entropy over the labels that are known, 0 where there are none."""
    scores = full_precision(logits)[known]
    labels = multi_hot[known].to(scores)
    return F.binary_cross_entropy_with_logits(scores, labels, reduction="sum") / max(len(scores), 1)


def known_labels(multi_hot: Shaped[Tensor, "samples labels"], *ignored: int) -> Tensor:
    """Which labels are known: those that are none of the numbers, -100 if none is given."""
    unknown = torch.tensor(ignored or (-100,), device=multi_hot.device, dtype=torch.float64)
    return ~torch.isin(multi_hot.double(), unknown)


def as_known(multi_hot: Shaped[Tensor, "samples labels"], known: Tensor) -> Tensor:
    """Labels as metrics take them: 1 from a half on, else 0, and -100 where they are not known."""
    return (multi_hot >= 0.5).long().masked_fill(~known, -100)
