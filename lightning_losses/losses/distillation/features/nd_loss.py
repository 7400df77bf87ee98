"""Norm and direction: the student's features point along the teacher's class mean, and are no shorter than its own."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_count, check_floating, check_number
from lightning_losses.numerics.probabilities import full_precision, known_everywhere
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import class_indices


def nd_loss(
    features: Float[Tensor, "batch dim"],
    teacher_features: Float[Tensor, "batch dim"],
    target: Shaped[Tensor, "batch ..."],
    class_means: Float[Tensor, "classes dim"],
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Feature norm and direction, given the teacher's class means; see `NDLoss`."""
    check_reduction("nd_loss", reduction)
    _check_features(features, teacher_features, target)
    if features.shape != teacher_features.shape or class_means.shape[1:] != features.shape[1:]:
        raise ValueError(
            f"nd_loss: features of shape {list(features.shape)} came with teacher_features of shape "
            f"{list(teacher_features.shape)} and class means of shape {list(class_means.shape)}; give the same D."
        )
    student = full_precision(features)
    teacher = full_precision(teacher_features.detach()).to(student.dtype)
    kept = None if target.is_floating_point() else target != ignore_index
    if kept is not None and known_everywhere(kept):
        kept = None
    if kept is not None:
        student = student.masked_fill(~kept.unsqueeze(-1), 0.0)
        teacher = teacher.masked_fill(~kept.unsqueeze(-1), 0.0)
        target = target.masked_fill(~kept, 0)
    direction = F.normalize(class_means.detach()[class_indices(target)].to(student.dtype), dim=-1)
    length = torch.maximum(student.norm(dim=-1), teacher.norm(dim=-1))
    # Two features of length 0 have no direction; the bound keeps their quotient at 0.
    cosine = (student * direction).sum(dim=-1) / length.clamp(min=torch.finfo(student.dtype).eps)
    return reduce(1 - cosine, reduction, kept)


def _check_features(features: Tensor, teacher_features: Tensor, target: Tensor) -> None:
    for name, tensor in (("features", features), ("teacher_features", teacher_features)):
        check_floating("nd_loss", name, tensor)
        if tensor.ndim != 2 or len(tensor) != len(features):
            raise ValueError(
                f"nd_loss: {name} of shape {list(tensor.shape)} came; give vectors [B, D], of the same samples for "
                "both."
            )
    if target.ndim != (2 if target.is_floating_point() else 1) or len(target) != len(features):
        raise ValueError(
            f"nd_loss: target of shape {list(target.shape)} came with {len(features)} samples; give [B] class indices "
            "or [B, C] probabilities."
        )


class _Projector(LazyModuleMixin, nn.Module):
    """Batch norm, dropout and a linear layer to the teacher's dimension; nothing where the dimensions are equal."""

    # Without shape until the first batch, None where no projector is needed.
    weight: Any
    bias: Any

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm: nn.Module | None = nn.LazyBatchNorm1d()
        self.dropout = nn.Dropout(dropout)
        self.weight = UninitializedParameter()
        self.bias = UninitializedParameter()

    def initialize_parameters(self, features: Tensor, teacher_features: Tensor) -> None:
        """Take the shapes from the first batch."""
        dim, teacher_dim = features.shape[-1], teacher_features.shape[-1]
        if not is_lazy(self.weight):  # loaded
            return
        if dim == teacher_dim:
            self.norm = self.weight = self.bias = None
            return
        self.weight.materialize((teacher_dim, dim))
        self.bias.materialize((teacher_dim,))
        bound = dim**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def _lazy_load_hook(self, state_dict: Any, prefix: str, *others: Any) -> None:
        # What was saved without a projector needs none.
        if f"{prefix}weight" not in state_dict:
            self.norm = self.weight = self.bias = None
        super()._lazy_load_hook(state_dict, prefix, *others)

    def forward(
        self, features: Float[Tensor, "batch dim"], teacher_features: Float[Tensor, "batch teacher_dim"]
    ) -> Float[Tensor, "batch teacher_dim"]:
        """Project the student's features."""
        if self.weight is None:
            return features
        features = features.to(self.weight.dtype)
        assert isinstance(self.norm, _BatchNorm)
        if len(features) > 1 or is_lazy(self.norm.weight):
            normed = self.norm(features)
        else:  # one sample has no variance
            normed = F.batch_norm(
                features, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
            )
        return F.linear(self.dropout(normed), self.weight, self.bias)


class NDLoss(LazyModuleMixin, Loss):
    """Norm and direction: the student's features point along the teacher's class mean, and are no shorter than its own.

    ``1 - f_s · e_y / max(|f_s|, |f_t|)``, with e_y the direction of the teacher's mean feature of class y. Once the
    student's feature is as long as the teacher's, only its direction counts; before, its length along e_y does too.

    `class_means` is a buffer: zeros at first, with which the loss is 1 and teaches nothing, and set by
    `lightning_losses.callbacks.companions.class_means.ClassMeans` when training begins. Where the dimensions differ,
    the student's feature goes through batch norm, dropout and a linear layer first; the loss owns them, they train and
    are saved with it, and take their shapes from the first batch. Ignored samples reach that batch norm as zeros.

    Args:
        num_classes: C.
        dropout: of the projector, at least 0 and below 1.
        ignore_index: samples with this target count for nothing.
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
        and to KD that warms up over 20 epochs, weight 1 on CIFAR. The code rounds the means to 4 decimals; not here.

    Example:
        >>> loss = NDLoss(num_classes=2)
        >>> features, teacher_features = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 6.0]])
        >>> _ = loss.set_class_means(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> loss(features, teacher_features, torch.tensor([0])).item()
        0.5
    """

    status = "confirmed"
    evidence = "WangYZ1608/Knowledge-Distillation-via-ND"

    class_means: Tensor

    def __init__(
        self, num_classes: int, dropout: float = 0.5, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check_count("nd_loss", "num_classes", num_classes)
        check_number("nd_loss", "dropout", dropout, least=0, most=1 - 1e-9)
        check_reduction("nd_loss", reduction)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.projector = _Projector(dropout)
        self.register_buffer("class_means", UninitializedBuffer())

    @property
    def dropout(self) -> float:
        """The projector's share of dropped features."""
        return self.projector.dropout.p

    @torch.no_grad()
    def set_class_means(self, class_means: Float[Tensor, "classes dim"]) -> "NDLoss":
        """Set the teacher's mean feature of each class.

        Raises:
            ValueError: another number of classes; a class whose mean is 0, as one without samples has.
        """
        if class_means.ndim != 2 or len(class_means) != self.num_classes:
            raise ValueError(
                f"nd_loss: class means of shape {list(class_means.shape)} came; give [{self.num_classes}, D]."
            )
        if absent := (class_means == 0).all(dim=1).nonzero().flatten().tolist():
            raise ValueError(f"nd_loss: the classes {absent} have a mean of 0; give samples of every class.")
        if isinstance(self.class_means, UninitializedBuffer):
            self.class_means.materialize(class_means.shape)
        if self.class_means.shape != class_means.shape:
            raise ValueError(
                f"nd_loss: class means of shape {list(class_means.shape)} came; give {list(self.class_means.shape)}."
            )
        self.class_means.copy_(class_means)
        return self

    def initialize_parameters(self, features: Tensor, teacher_features: Tensor, target: Tensor) -> None:
        """Take the teacher's dimension from the first batch."""
        if isinstance(self.class_means, UninitializedBuffer):
            _check_features(features, teacher_features, target)
            with torch.no_grad():
                self.class_means.materialize((self.num_classes, teacher_features.shape[-1]))
                self.class_means.zero_()

    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        teacher_features: Float[Tensor, "batch teacher_dim"],
        target: Shaped[Tensor, "batch ..."],
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        _check_features(features, teacher_features, target)
        if not target.is_floating_point():
            kept = target != self.ignore_index
            features = features if known_everywhere(kept) else features.masked_fill(~kept.unsqueeze(-1), 0.0)
        return nd_loss(
            self.projector(features, teacher_features) if len(features) else features.sum() * teacher_features.detach(),
            teacher_features,
            target,
            self.class_means,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
