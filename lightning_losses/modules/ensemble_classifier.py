"""A ready LightningModule that trains the teachers of an ensemble independently."""

from typing import Any

import torch

from lightning_losses.data.loading import named
from lightning_losses.mixins.objective import terms_that_learn
from lightning_losses.modules.classifier import Batch, Classifier
from lightning_losses.teachers.ensemble import TeacherEnsemble


class EnsembleClassifier(Classifier):
    """Trains every member of a `TeacherEnsemble` on its own loss; validation and test evaluate the ensemble.

    The members see the same batches and differ in their initial weights and possibly in their layers. The losses are
    added, so that each member gets the gradient that it would get alone.

    Args:
        **classifier: see `Classifier`; `network` is a `TeacherEnsemble`.

    Raises:
        ValueError: a network that is no ensemble; an objective of features or past predictions, or with a loss that
            learns from training steps.

    Example:
        >>> from torch import nn
        >>> from lightning_losses import CrossEntropy, Objective
        >>> ensemble = TeacherEnsemble([nn.Linear(4, 3), nn.Linear(4, 3)])
        >>> module = EnsembleClassifier(network=ensemble, objective=Objective({"ce": CrossEntropy()}), num_classes=3)
        >>> module.training_step({"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1])}, 0)["logits"].shape
        torch.Size([2, 3])
    """

    network: TeacherEnsemble

    def __init__(self, **classifier: Any) -> None:
        super().__init__(**classifier)
        features = [name for name in ("features", "feature_maps") if self.objective.needs(name)]
        if taken := [*features, *self.sample_memories()]:
            raise ValueError(
                f"EnsembleClassifier: the objective takes {', '.join(map(repr, taken))}, which members would share; "
                "give one of 'logits' and 'target', or train each member by Classifier."
            )
        if learning := list(terms_that_learn(self.objective)):
            raise ValueError(
                f"EnsembleClassifier: the term {learning[0]!r} learns from training steps, and members would share "
                "what it learns; give a loss that keeps nothing, or train each member by Classifier."
            )
        if not isinstance(self.network, TeacherEnsemble):
            raise ValueError(
                f"EnsembleClassifier: network is a {type(self.network).__name__}; give a TeacherEnsemble, or train it "
                "by Classifier."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The sum of the members' objectives on one batch."""
        batch = named(type(self).__name__, batch)
        each = self.network.each(batch["inputs"])
        values = [
            self.objective_value(self.objective, self.objective_tensors({**batch, "logits": logits}))
            for logits in each.values()
        ]
        total = torch.stack([value.total for value in values]).sum()
        # The mean over the members is logged, because it can be compared with other networks' losses.
        parts = {name: torch.stack([value.parts[name] for value in values]).mean() for name in values[0].parts}
        self.log_objective(self.log_name(), values[0]._replace(parts=parts))
        return {"loss": total, **batch, "logits": self.network.mean(each)}
