"""A ready LightningModule for a student with a second head."""

from typing import Any

from torch import nn

from lightning_losses.data.loading import named
from lightning_losses.mixins.dual_head import DualHeadMixin, HeadKind, auxiliary_classifier
from lightning_losses.modules.classifier import Batch
from lightning_losses.modules.distiller import Distiller


class DualHeadDistiller(DualHeadMixin, Distiller):
    """Trains a student: its second head learns from the teacher, its own head from the labels and is evaluated.

    Args:
        head: the name of the network's last linear layer; None takes the last linear layer.
        auxiliary: "linear", or "mlp" for a second head of 200 hidden units.
        align_gradients: remove from the second head's gradient the component against the labels' gradient, as the
            authors do for CIFAR; see `DualHeadMixin`.
        **distiller: see `Distiller`.

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

    def __init__(
        self,
        head: str | None = None,
        auxiliary: HeadKind = "linear",
        align_gradients: bool = False,
        **distiller: Any,
    ) -> None:
        super().__init__(**distiller)
        self.align_gradients = align_gradients
        self.automatic_optimization = not align_gradients
        linear = {name: layer for name, layer in self.network.named_modules() if isinstance(layer, nn.Linear)}
        name = head if head is not None else next(reversed(linear), "")
        if name not in linear:
            raise ValueError(f"dual_head: head={head!r} came; give one of the linear layers {', '.join(linear)}.")
        second = auxiliary_classifier(linear[name].in_features, linear[name].out_features, auxiliary)
        self.add_auxiliary_head(self.network, name, second)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch; with aligned gradients, also the optimizer step."""
        if not self.align_gradients:
            return super().training_step(batch, batch_idx)
        given = named(type(self).__name__, batch)
        return self.aligned_step(logits=self(given["inputs"]), **given)

    def configure_optimizers(self) -> Any:
        """One optimizer; with aligned gradients this module steps the scheduler itself."""
        configured = super().configure_optimizers()
        if self.align_gradients and isinstance(configured, dict):
            return [configured["optimizer"]], [configured["lr_scheduler"]["scheduler"]]
        return configured
