"""A ready LightningModule for a network that learns from its own moving average."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_losses.mixins.ema_teacher import Buffers, EMATeacherMixin
from lightning_losses.modules.classifier import Classifier


class EMADistiller(EMATeacherMixin, Classifier):
    """Trains a network with any objective; the teacher is the network's exponential moving average.

    Args:
        network: see `Classifier`.
        decay: decay of the average, in [0, 1].
        warmup: begin with a smaller decay; see `EMATeacherMixin`.
        buffers: "copy" or "average"; see `EMATeacherMixin`.
        teacher_layer: the layer of the teacher's features, if a term takes them.
        **classifier: see `Classifier`.

    Example:
        >>> from lightning_losses import KD, Objective
        >>> module = EMADistiller(nn.Linear(4, 3), objective=Objective({"kd": KD()}), num_classes=3)
        >>> sorted(name for name in module.state_dict() if "weight" in name)
        ['network.weight']
    """

    def __init__(
        self,
        network: nn.Module,
        decay: float = 0.999,
        warmup: bool = True,
        buffers: Buffers = "copy",
        teacher_layer: str | Sequence[str] | None = None,
        **classifier: Any,
    ) -> None:
        # Before the network is tapped, and before losses read the shapes of the teacher's features.
        self.teacher = copy.deepcopy(network)
        self.teacher_layer = teacher_layer
        super().__init__(network=network, **classifier)
        self.start_ema_teacher("network", decay=decay, warmup=warmup, buffers=buffers, teacher=self.teacher)
