"""A ready LightningModule that learns how to mix teacher and label for each sample."""

from typing import Any

from torch import nn

from lightning_losses.data.loading import named
from lightning_losses.mixins.tgeo_kd import TGeoKDMixin
from lightning_losses.modules.classifier import Batch, Classifier


class TGeoDistiller(TGeoKDMixin, Classifier):
    """Trains a student with `TGeoKD`, together with the controller that gives each sample its ratio.

    Args:
        teacher: the frozen teacher.
        num_classes: C.
        learning_rate: learning rate of the copied step through which the controller learns; None takes that of the
            student's optimizer.
        temperature: temperature of that step's mixed loss; give the objective's.
        controller_learning_rate: learning rate of the controller's Adam; the authors use 0.1.
        controller_weight_decay: weight decay of the controller's Adam; the authors use 0.05.
        controller_every: number of student steps for each controller step.
        **classifier: see `Classifier`; `network` is the student.

    Example:
        >>> import torch
        >>> from lightning_losses import Objective
        >>> from lightning_losses.losses import TGeoKD
        >>> module = TGeoDistiller(nn.Linear(4, 3), network=nn.Linear(4, 3), objective=Objective({"tgeo": TGeoKD()}),
        ...                        num_classes=3)
        >>> module.training_step({"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1])}, 0)["loss"].shape
        torch.Size([])
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        *,
        num_classes: int,
        learning_rate: float | None = None,
        temperature: float = 1.5,
        controller_learning_rate: float = 0.1,
        controller_weight_decay: float = 0.05,
        controller_every: int = 1,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        self.teacher = teacher
        self.start_tgeo(
            num_classes,
            temperature=temperature,
            learning_rate=learning_rate,
            controller_learning_rate=controller_learning_rate,
            controller_weight_decay=controller_weight_decay,
            every=controller_every,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """A step of the controller and one of the student."""
        return self.tgeo_step(named(type(self).__name__, batch))

    def configure_optimizers(self) -> Any:
        """The student's optimizer, for everything except the controller, and the controller's."""
        student = self.make_optimizer(
            [parameter for name, parameter in self.named_parameters() if not name.startswith("controller.")]
        )
        schedulers = [] if self.make_scheduler is None else [self.make_scheduler(student)]
        return [student, self.controller_optimizer()], schedulers
