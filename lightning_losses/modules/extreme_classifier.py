"""A ready LightningModule for samples with a few of very many labels."""

from typing import Any

from lightning_losses.metrics.ranked_labels import PrecisionAtK
from lightning_losses.modules.multi_label_classifier import MultiLabelClassifier

# At which k rankings are scored.
RANKS = (1, 3, 5)


class ExtremeClassifier(MultiLabelClassifier):
    """Trains a network on samples with a few of very many labels, with any objective of `multi_hot`.

    As `MultiLabelClassifier`, but what validation and test log beside the ``loss`` are ``precision_at_1``,
    ``precision_at_3`` and ``precision_at_5``: scores label by label would be of labels that hardly any sample has.

    Args:
        network, objective, num_classes, **options: as `MultiLabelClassifier` takes them.

    Example:
        >>> import torch
        >>> from lightning_losses import DecoupledSoftmax, Objective
        >>> network, objective = torch.nn.Linear(4, 9), Objective({"decoupled_softmax": DecoupledSoftmax()})
        >>> sorted(ExtremeClassifier(network, objective, num_classes=9).val_metrics.keys())
        ['val/precision_at_1', 'val/precision_at_3', 'val/precision_at_5']
    """

    def metrics(self, num_classes: int) -> dict[str, Any]:
        """Precision at the ranks that there are."""
        return {f"precision_at_{k}": PrecisionAtK(k) for k in RANKS if k <= num_classes}
