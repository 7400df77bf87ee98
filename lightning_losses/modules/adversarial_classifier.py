"""A ready LightningModule that trains a network on attacked inputs."""

from typing import Any

from lightning_losses.attacks.attack import Attack
from lightning_losses.data.loading import named
from lightning_losses.mixins.adversarial_training import AdversarialTrainingMixin
from lightning_losses.modules.classifier import Batch, Classifier


class AdversarialClassifier(AdversarialTrainingMixin, Classifier):
    """Trains a network on classes with objectives that take `attacked_logits`; see `AdversarialTrainingMixin`.

    If no term takes the clean `logits`, the clean inputs don't run, and no batch norm sees them; the step's output then
    has the attacked logits as its `logits`. Validation and test are of clean inputs; `RobustAccuracy` adds those under
    attack.

    Args:
        attack: the attack of training.
        **classifier: as `Classifier` takes them.

    Example:
        >>> import torch
        >>> from lightning_losses import CrossEntropy, Objective, Term
        >>> from lightning_losses.attacks import PGD
        >>> objective = Objective({"ce": Term(CrossEntropy(), inputs={"logits": "attacked_logits"})})
        >>> module = AdversarialClassifier(
        ...     PGD(steps=2), network=torch.nn.Linear(4, 3), objective=objective, num_classes=3
        ... )
        >>> batch = {"inputs": torch.rand(2, 4), "target": torch.tensor([0, 1])}
        >>> module.training_step(batch, 0)["loss"].item() > 0
        True
    """

    def __init__(self, attack: Attack, **classifier: Any) -> None:
        super().__init__(**classifier)
        self.attack = attack

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch."""
        if self.objective.needs("logits"):
            return super().training_step(batch, batch_idx)
        given = named(type(self).__name__, batch)
        attacked = self.attacked(given)
        return self.apply_objective(logits=attacked["attacked_logits"], **attacked, **given)
