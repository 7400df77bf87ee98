"""FitNet hint: a regressor on the student's layer predicts the teacher's."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from lightning_losses.losses.base import Loss
from lightning_losses.tensors import Reduction, check_floating, full_precision


def fitnet_hint_loss(
    feature_maps: Float[Tensor, "batch ..."], teacher_feature_maps: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """The mean squared difference of the regressed student's layer and the teacher's; see `FitNetHint`."""
    for name, tensor in (("feature_maps", feature_maps), ("teacher_feature_maps", teacher_feature_maps)):
        check_floating("fitnet_hint", name, tensor)
    if feature_maps.shape != teacher_feature_maps.shape:
        raise ValueError(
            f"fitnet_hint: feature_maps of shape {list(feature_maps.shape)} came with teacher_feature_maps of shape "
            f"{list(teacher_feature_maps.shape)}; give both the same, or let FitNetHint make a regressor."
        )
    student = full_precision(feature_maps)
    teacher = full_precision(teacher_feature_maps.detach()).to(student.dtype)
    return F.mse_loss(student, teacher, reduction="sum") / max(student.numel(), 1)


def regression_kernel(student: torch.Size, teacher: torch.Size) -> tuple[int, ...]:
    """The height and width of the convolution that takes one map's size to another's; () for vectors and tokens.

    Raises:
        ValueError: sizes that none of the three convolutions connects.
    """
    if len(student) != len(teacher) or len(student) not in (2, 3, 4) or student[0] != teacher[0]:
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


class _Regressor(LazyModuleMixin, nn.Module):
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
        # A transposed convolution's weight begins with the channels that come in.
        first = (source, goal) if _grows(student.shape, teacher.shape) else (goal, source)
        self.weight.materialize((*first, *kernel))
        self.bias.materialize((goal,))
        bound = (source * kernel[0] * kernel[1] if kernel else source) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def _lazy_load_hook(self, state_dict: Any, prefix: str, *others: Any) -> None:
        # A linear layer was saved without a norm.
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


class FitNetHint(Loss):
    """FitNet hint: a regressor on the student's layer predicts the teacher's.

    ``mean (r(F_s) - F_t)²`` over all elements. The loss owns the regressor r, which trains and is saved with it, and
    takes its shapes from the first batch. For maps it is a convolution, batch norm and ReLU: 3 x 3 of stride 2 where
    the student's map is twice as large as the teacher's, transposed 4 x 4 of stride 2 where half, and otherwise one
    without padding whose kernel makes up the difference. For vectors and tokens it is a linear layer.

    Args:
        regressor: a module to take in its place, called with the student's layer alone; ``nn.Identity()`` compares the
            layers as they are.

    Shapes:
        feature_maps, teacher_feature_maps: [B, channels, height, width], [B, T, D] or [B, D], of any two numbers of
        channels; the teacher's map twice as high and wide, or not larger.

    Returns:
        A scalar.

    Raises:
        ValueError: layers of shapes that no regressor connects, or of other dtypes.

    Source:
        Romero, Ballas, Kahou, Chassang, Gatta, Bengio, 2015, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, with
        the regressor of megvii-research/mdistiller, which trains it with cross-entropy at once (weight 100) rather than
        in a stage of its own.

    Example:
        >>> maps = torch.ones(2, 3, 4, 4)
        >>> FitNetHint(nn.Identity())(maps, 3 * maps).item()
        4.0
        >>> FitNetHint()(maps, torch.ones(2, 5, 2, 2)).shape
        torch.Size([])
    """

    status = "paper"
    evidence = "no golden values; torch's layers and mean squared error in its tests"

    # Samples weigh alike, so processes with unequal batches are weighed by their samples.
    reduction: ClassVar[Reduction] = "mean"

    def __init__(self, regressor: nn.Module | None = None) -> None:
        super().__init__()
        self.regressor = _Regressor() if regressor is None else regressor

    def forward(
        self, feature_maps: Float[Tensor, "batch ..."], teacher_feature_maps: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        for name, tensor in (("feature_maps", feature_maps), ("teacher_feature_maps", teacher_feature_maps)):
            check_floating("fitnet_hint", name, tensor)
        teacher = teacher_feature_maps.detach()
        if not isinstance(self.regressor, _Regressor):
            return fitnet_hint_loss(self.regressor(feature_maps), teacher)
        if len(feature_maps) == 0:
            return full_precision(feature_maps).sum() * 0.0
        return fitnet_hint_loss(self.regressor(feature_maps, teacher), teacher)
