"""A ready LightningModule that continues the training of a trained network."""

from typing import Any

from torch import nn

from lightning_losses.modules.classifier import Classifier
from lightning_losses.networks.weights import copy_weights


class FineTuner(Classifier):
    """Continues the training of a copy of a trained network, with any objective without a teacher, such as `MCMI`.

    Args:
        teacher: the trained network, whose weights are copied into `network`; None leaves `network` unchanged.
        **classifier: see `Classifier`; `network` has the teacher's layers.

    Raises:
        ValueError: a network whose layers are not the teacher's.

    Example:
        >>> import torch
        >>> from lightning_losses import CrossEntropy, Objective
        >>> teacher = nn.Linear(4, 3)
        >>> module = FineTuner(teacher, network=nn.Linear(4, 3), objective=Objective({"ce": CrossEntropy()}),
        ...                    num_classes=3)
        >>> bool(torch.equal(module.network.weight, teacher.weight))
        True
    """

    def __init__(self, teacher: nn.Module | None = None, **classifier: Any) -> None:
        super().__init__(**classifier)
        if teacher is not None:
            copy_weights(type(self).__name__, teacher, self.network)
