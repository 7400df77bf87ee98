"""A ready LightningModule that learns from labels adapted by its teacher, crop by crop."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.data.ferkd_labels import AdaptedLabels, ferkd_labels
from lightning_losses.data.loading import named
from lightning_losses.data.selfmix import selfmix
from lightning_losses.mixins import DistillationMixin
from lightning_losses.modules.classifier import Batch, Classifier
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.objective.ignored_targets import ignored_targets


class FerKDDistiller(DistillationMixin, Classifier):
    """Trains a student on FerKD's labels: the teacher's for crops it is sure of, else the softened hard label or none.

    The objective, usually cross-entropy, gets them as soft `target`, without the dropped crops. Crops whose target the
    objective ignores are dropped too. With `mix_alpha` each crop is mixed by `selfmix` with another crop of the same
    image, from `other_inputs`; the mixture is dropped if either crop is.

    Args:
        teacher: the frozen teacher.
        low: below this largest probability a crop is dropped; see `ferkd_labels`.
        middle: below this largest probability a crop gets the softened hard label.
        smoothing: smoothing of that label.
        mix_alpha: α of SelfMix, above 0; None doesn't mix.
        **classifier: see `Classifier`; `network` is the student.

    Example:
        >>> from lightning_losses import CrossEntropy, Objective
        >>> module = FerKDDistiller(nn.Linear(4, 3), low=0.0, middle=0.5, network=nn.Linear(4, 3), num_classes=3,
        ...                         objective=Objective({"ce": CrossEntropy()}))
        >>> module.training_step({"inputs": torch.zeros(2, 4), "target": torch.tensor([0, 1])}, 0)["target"].shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        *,
        low: float,
        middle: float,
        smoothing: float = 0.1,
        mix_alpha: float | None = None,
        **classifier: Any,
    ) -> None:
        self.teacher = teacher
        super().__init__(**classifier)
        check_number("ferkd_labels", "low", low, least=0, most=1)
        check_number("ferkd_labels", "middle", middle, least=low, most=1)
        if mix_alpha is not None:
            check_number("selfmix", "alpha", mix_alpha, above=0)
        self.low, self.middle, self.smoothing, self.mix_alpha = low, middle, smoothing, mix_alpha

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The objective of one batch, on the adapted labels of the kept crops."""
        batch = named(type(self).__name__, batch)
        labelled = labelled_rows(batch["target"], *ignored_targets(self))
        hard = batch["target"].masked_fill(~labelled, -100)
        inputs, adapted = batch["inputs"], self.adapted(batch["inputs"], hard)
        target, kept = adapted.target, adapted.weight > 0
        if self.mix_alpha is not None:
            if "other_inputs" not in batch:
                raise ValueError(
                    f"{type(self).__name__}: mixing needs 'other_inputs', another crop of each image; the step offered "
                    f"{', '.join(map(repr, sorted(batch)))}."
                )
            other = self.adapted(batch["other_inputs"], hard)
            mixed = selfmix(inputs, batch["other_inputs"], target, other.target, alpha=self.mix_alpha)
            inputs, target, kept = mixed.inputs, mixed.target, kept & (other.weight > 0)
        rest = {name: value[kept] for name, value in batch.items() if name in ("index", "view_index")}
        clock = {name: value for name, value in batch.items() if not isinstance(value, Tensor)}
        # Dropped after the network, so that its batch statistics use all crops.
        logits = self(inputs)[kept]
        return self.apply_objective(logits=logits, target=target[kept], inputs=inputs[kept], **rest, **clock)

    @torch.no_grad()
    def adapted(self, crops: Float[Tensor, "batch ..."], target: Tensor) -> AdaptedLabels:
        """The labels of these crops, from the teacher's predictions."""
        if self.teacher is None:
            raise ValueError(f"{type(self).__name__}: no teacher is set, which adapts the labels; set self.teacher.")
        with self.teacher_in_evaluation():
            logits = logits_of(f"{type(self).__name__}: the teacher", call(self.teacher, crops))
        probabilities = logits.float().softmax(dim=-1)
        return ferkd_labels(probabilities, target, low=self.low, middle=self.middle, smoothing=self.smoothing)
