"""A ready LightningModule for a student with a second head."""

from typing import Any

from torch import nn

from lightning_losses.mixins.dual_head import DualHeadMixin, HeadKind, auxiliary_classifier
from lightning_losses.modules.distiller import Distiller


class DualHeadDistiller(DualHeadMixin, Distiller):
    """Trains a student whose second head learns from the teacher, its own from the labels; it is measured by its own.

    Args:
        head: the name of the network's last linear layer; None takes the last one that it has.
        auxiliary: "linear", or "mlp" for a second head of 200 hidden units.
        **distiller: as `Distiller` takes them.

    Raises:
        ValueError: a network whose head is no linear layer.

    Example:
        >>> from lightning_losses import BinaryKLNorm, CrossEntropy, Objective, Term
        >>> auxiliary = Term(BinaryKLNorm(), inputs={"logits": "auxiliary_logits"})
        >>> module = DualHeadDistiller(teacher=nn.Linear(4, 3), network=nn.Linear(4, 3), num_classes=3,
        ...                            objective=Objective({"ce": CrossEntropy(), "aux": auxiliary}))
        >>> sorted(name for name in module.state_dict() if "weight" in name)
        ['auxiliary_head.weight', 'network.weight']
    """

    def __init__(self, head: str | None = None, auxiliary: HeadKind = "linear", **distiller: Any) -> None:
        super().__init__(**distiller)
        linear = {name: layer for name, layer in self.network.named_modules() if isinstance(layer, nn.Linear)}
        name = head if head is not None else next(reversed(linear), "")
        if name not in linear:
            raise ValueError(f"dual_head: head={head!r} came; give one of the linear layers {', '.join(linear)}.")
        second = auxiliary_classifier(linear[name].in_features, linear[name].out_features, auxiliary)
        self.add_auxiliary_head(self.network, name, second)
