"""Norm and direction: student features point along the teacher's class mean and are as long as the teacher's."""

from dataclasses import field
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer

from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.features.regressors import Projector
from lightning_losses.numerics.checks import check_vectors
from lightning_losses.numerics.probabilities import full_precision, known_everywhere
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.rows import (
    check_classes,
    check_probabilities,
    class_indices,
    labelled_rows,
    nan_beside_nan,
    required_target,
)
from lightning_losses.numerics.settings import Bound, Count


class NDLoss(LazyModuleMixin, Loss):
    """Norm and direction: student features point along the teacher's class mean and are as long as the teacher's.

    ``1 - f_s · e_y / max(|f_s|, |f_t|)``, with e_y the direction of the teacher's mean feature of class y. While the
    student's feature is shorter than the teacher's, its length along e_y counts; from then on only its direction does.

    `class_means` is a buffer. It begins with zeros, for which the loss is 1 and has no gradient, and is set by
    `lightning_losses.callbacks.companions.class_means.ClassMeans` when training begins. If the dimensions differ, the
    student's feature first goes through batch norm, dropout and a linear layer. These belong to the loss: they take
    their shapes from the first batch, and are trained and saved with it. In the batch norm, ignored samples are zeros.

    Args:
        num_classes: C, at least 1.
        dropout: dropout rate of the projector, at least 0 and below 1.
        ignore_index: samples with this target, or with probabilities that are all 0, are ignored.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        features: [B, D]; teacher_features: [B, D']; target: [B], or [B, C] probabilities, whose largest class counts.

    Returns:
        A scalar, or [B] without reduction; from 0 to 2.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Wang, Cheng, Duan, Wang, Feng, Kong, 2023, "Improving Knowledge Distillation via Regularizing Feature Norm
        and Direction", arXiv:2305.17007, and its code WangYZ1608/Knowledge-Distillation-via-ND: added to cross-entropy
        and to KD that warms up over 20 epochs, weight 1 on CIFAR. The code rounds the means to 4 decimals; this
        doesn't.

    Example:
        >>> loss = NDLoss(num_classes=2)
        >>> features, teacher_features = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 6.0]])
        >>> _ = loss.set_class_means(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> loss(features, teacher_features, torch.tensor([0])).item()
        0.5
    """

    status = "confirmed"
    evidence = "WangYZ1608/Knowledge-Distillation-via-ND"

    num_classes: Count
    dropout: Annotated[float, Bound(least=0, below=1)] = 0.5
    ignore_index: int = field(default=-100, kw_only=True)
    reduction: Reduction = field(default="mean", kw_only=True)
    class_means: Tensor = field(init=False)

    def __post_init__(self) -> None:
        LazyModuleMixin.__init__(self)
        super().__post_init__()
        self.projector = Projector(self.dropout)
        self.register_buffer("class_means", UninitializedBuffer())

    @torch.no_grad()
    def set_class_means(self, class_means: Float[Tensor, "classes dim"]) -> Self:
        """Set the teacher's mean feature of each class.

        Raises:
            ValueError: another number of classes; a class with a mean of 0, such as one without samples.
        """
        if class_means.ndim != 2 or len(class_means) != self.num_classes:
            raise ValueError(
                f"{self._identifier}: class means of shape {list(class_means.shape)} came; give [{self.num_classes}, "
                "D]."
            )
        if absent := (class_means == 0).all(dim=1).nonzero().flatten().tolist():
            raise ValueError(f"{self._identifier}: the classes {absent} have a mean of 0; give samples of every class.")
        if isinstance(self.class_means, UninitializedBuffer):
            self.class_means.materialize(class_means.shape)
        if self.class_means.shape != class_means.shape:
            raise ValueError(
                f"{self._identifier}: class means of shape {list(class_means.shape)} came; give "
                f"{list(self.class_means.shape)}."
            )
        self.class_means.copy_(class_means)
        return self

    def initialize_parameters(self, features: Tensor, teacher_features: Tensor, target: Tensor) -> None:
        """Take the teacher's dimension from the first batch."""
        if isinstance(self.class_means, UninitializedBuffer):
            self._check(features, teacher_features, target)
            with torch.no_grad():
                self.class_means.materialize((self.num_classes, teacher_features.shape[-1]))
                self.class_means.zero_()

    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        teacher_features: Float[Tensor, "batch teacher_dim"],
        target: Shaped[Tensor, "batch ..."],
    ) -> Float[Tensor, "..."]:
        """Check, project, evaluate and reduce; see the class."""
        self._check(features, teacher_features, target)
        teacher, label = teacher_features.detach(), class_indices(target)
        if target.is_floating_point():
            check_probabilities(self._identifier, "target", target)
            features = nan_beside_nan(features, target)
            labelled = labelled_rows(target)
        else:
            labelled = check_classes(self._identifier, target, self.num_classes, self.ignore_index)
        kept = None if known_everywhere(labelled) else labelled
        if kept is not None:
            features, teacher = (vectors.masked_fill(~kept.unsqueeze(-1), 0.0) for vectors in (features, teacher))
            label = label.masked_fill(~kept, 0)
        projected = self.projector(features, teacher) if len(features) else features.sum() * teacher
        if projected.shape != teacher.shape or self.class_means.shape[1:] != teacher.shape[1:]:
            raise ValueError(
                f"{self._identifier}: features of shape {list(projected.shape)} came with teacher_features of shape "
                f"{list(teacher.shape)} and class means of shape {list(self.class_means.shape)}; give the same D."
            )
        student = full_precision(projected)
        teacher = full_precision(teacher).to(student.dtype)
        direction = F.normalize(self.class_means[label].to(student.dtype), dim=-1)
        length = torch.maximum(student.norm(dim=-1), teacher.norm(dim=-1))
        # If both features have length 0, the bound makes the quotient 0.
        cosine = (student * direction).sum(dim=-1) / length.clamp(min=torch.finfo(student.dtype).eps)
        # An infinite teacher feature would silently give a cosine of 0.
        cosine = torch.where(length < torch.inf, cosine, torch.nan)
        return reduce(1 - cosine, self.reduction, kept)

    def _check(self, features: Tensor, teacher_features: Tensor, target: Tensor) -> None:
        check_vectors(self._identifier, features, teacher_features)
        soft = required_target(self._identifier, target).is_floating_point()
        shape = (len(features), self.num_classes) if soft else (len(features),)
        if target.shape != shape or not (soft or target.dtype == torch.int64):
            raise ValueError(
                f"{self._identifier}: target of shape {list(target.shape)} and dtype {target.dtype} came with "
                f"{len(features)} samples; give [B] int64 class indices or [B, {self.num_classes}] probabilities."
            )
