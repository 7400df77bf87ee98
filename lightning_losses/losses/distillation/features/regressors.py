"""Layers that map the student's features to the teacher's shape; the first batch sets both shapes."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy


def regression_kernel(student: torch.Size, teacher: torch.Size) -> tuple[int, ...]:
    """The kernel size of the convolution that maps one map's size to another's; () for vectors and tokens.

    Raises:
        ValueError: sizes that none of the three convolutions connects.
    """
    sizes = len(student) == len(teacher) and len(student) in (2, 3, 4) and student[0] == teacher[0]
    if not sizes or student[1:].numel() == 0 or teacher[1:].numel() == 0:
        raise ValueError(
            f"fitnet_hint: feature_maps of shape {list(student)} came with teacher_feature_maps of shape "
            f"{list(teacher)}; give both [B, D], [B, T, D] or [B, channels, height, width], of the same samples."
        )
    if len(student) < 4:
        if student[1:-1] != teacher[1:-1]:
            raise ValueError(
                f"fitnet_hint: feature_maps of {student[1]} tokens came with {teacher[1]} of the teacher's; give both "
                "the same tokens."
            )
        return ()
    (h, w), (height, width) = student[2:], teacher[2:]
    if (h, w) == (2 * height, 2 * width):
        return (3, 3)
    if (2 * h, 2 * w) == (height, width):
        return (4, 4)
    if h < height or w < width:
        raise ValueError(
            f"fitnet_hint: feature_maps of {h} x {w} came with teacher_feature_maps of {height} x {width}; the "
            "teacher's may be twice as large, or not larger."
        )
    return (1 + h - height, 1 + w - width)


class Regressor(LazyModuleMixin, nn.Module):
    """A linear layer for vectors; for maps a convolution that fits the sizes, batch norm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = UninitializedParameter()
        self.bias = UninitializedParameter()
        self.norm: nn.Module | None = nn.LazyBatchNorm2d()

    def initialize_parameters(self, student: Tensor, teacher: Tensor) -> None:
        """Take the shapes from the first batch."""
        kernel = regression_kernel(student.shape, teacher.shape)
        if not kernel:
            self.norm = None
        if not is_lazy(self.weight):  # loaded
            return
        axis = 1 if kernel else -1
        source, goal = student.shape[axis], teacher.shape[axis]
        # The weight of a transposed convolution begins with the input channels.
        first = (source, goal) if _grows(student.shape, teacher.shape) else (goal, source)
        self.weight.materialize((*first, *kernel))
        self.bias.materialize((goal,))
        bound = (source * kernel[0] * kernel[1] if kernel else source) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def _lazy_load_hook(self, state_dict: Any, prefix: str, *others: Any) -> None:
        # A saved linear layer has no norm.
        if f"{prefix}weight" in state_dict and f"{prefix}norm.weight" not in state_dict:
            self.norm = None
        super()._lazy_load_hook(state_dict, prefix, *others)

    def forward(self, student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]) -> Tensor:
        """Regress the student's layer to the teacher's shape."""
        kernel = regression_kernel(student.shape, teacher.shape)
        student = student.to(self.weight.dtype)
        if not kernel:
            return F.linear(student, self.weight, self.bias)
        assert self.norm is not None
        if _grows(student.shape, teacher.shape):
            mapped = F.conv_transpose2d(student, self.weight, self.bias, stride=2, padding=1)
        elif student.shape[2] == 2 * teacher.shape[2] and student.shape[3] == 2 * teacher.shape[3]:
            mapped = F.conv2d(student, self.weight, self.bias, stride=2, padding=1)
        else:
            mapped = F.conv2d(student, self.weight, self.bias)
        return F.relu(self.norm(mapped))


def _grows(student: torch.Size, teacher: torch.Size) -> bool:
    return len(student) == 4 and tuple(teacher[2:]) == (2 * student[2], 2 * student[3])


class Projector(LazyModuleMixin, nn.Module):
    """Batch norm, dropout and a linear layer to the teacher's dimension; nothing if the dimensions are equal."""

    # Without shape until the first batch; None if no projector is needed.
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
        # A state saved without a projector needs none.
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
