"""The mixin that runs every batch through the network twice, for R-Drop."""

from typing import Any

from lightning_losses.mixins.objective import ObjectiveMixin


class SecondPassMixin(ObjectiveMixin):
    """Offers the objective `logits_b`: those of a second pass over the step's inputs, with other dropout.

    The pass runs only if the objective takes them. In evaluation both passes are the same, and the first one's logits
    stand for both.

    Source:
        Liang et al., 2021, "R-Drop: Regularized Dropout for Neural Networks", arXiv:2106.14448, who join the two
        passes in one batch.

    Example:
        >>> import lightning, torch
        >>> from lightning_losses import Objective, RDrop
        >>> class Twice(SecondPassMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
        ...         self.objective = Objective({"rdrop": RDrop()})
        ...     def forward(self, inputs):
        ...         return self.network(inputs)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.apply_objective(inputs=batch, logits=self(batch))
        >>> Twice().training_step(torch.ones(2, 4), 0)["loss"].item() > 0
        True
    """

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add the second pass's logits, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        if not self.objective.needs("logits_b") or "logits_b" in tensors:
            return tensors
        if missing := [name for name in ("inputs", "logits") if name not in tensors]:
            raise ValueError(
                f"{type(self).__name__}: a second pass needs {' and '.join(map(repr, missing))}; the step offered "
                f"{', '.join(map(repr, sorted(tensors)))}."
            )
        if not self.training:
            return {**tensors, "logits_b": tensors["logits"]}
        with self.beside_the_batch():
            return {**tensors, "logits_b": self(tensors["inputs"])}
