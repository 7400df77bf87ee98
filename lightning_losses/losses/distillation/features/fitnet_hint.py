"""FitNet hint: a regressor on the student's layer predicts the teacher's."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_count, check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction

Maps = Float[Tensor, "batch ..."]


def fitnet_hint_loss(
    feature_maps: Maps | Mapping[str, Maps], teacher_feature_maps: Maps | Mapping[str, Maps]
) -> Float[Tensor, ""]:
    """The mean squared difference of the regressed student's layers and the teacher's, added up; see `FitNetHint`."""
    pairs = _pairs(feature_maps, teacher_feature_maps)
    for student, teacher in pairs:
        if student.shape != teacher.shape:
            raise ValueError(
                f"fitnet_hint: feature_maps of shape {list(student.shape)} came with teacher_feature_maps of shape "
                f"{list(teacher.shape)}; give both the same, or let FitNetHint make a regressor."
            )
    values = [_difference(student, teacher) for student, teacher in pairs]
    return sum(values[1:], values[0])


def _difference(student: Maps, teacher: Maps) -> Float[Tensor, ""]:
    student = full_precision(student)
    difference = student - full_precision(teacher.detach()).to(student.dtype)
    return difference.square().sum() / max(difference.numel(), 1)


def _pairs(
    feature_maps: Maps | Mapping[str, Maps], teacher_feature_maps: Maps | Mapping[str, Maps]
) -> list[tuple[Tensor, Tensor]]:
    students, teachers = (
        list(maps.values()) if isinstance(maps, Mapping) else [maps] for maps in (feature_maps, teacher_feature_maps)
    )
    for name, tensors in (("feature_maps", students), ("teacher_feature_maps", teachers)):
        for tensor in tensors:
            check_floating("fitnet_hint", name, tensor)
    if len(students) != len(teachers) or not students:
        raise ValueError(
            f"fitnet_hint: {len(students)} feature_maps came with {len(teachers)} teacher_feature_maps; give as many "
            "layers of both networks, in the same order."
        )
    return list(zip(students, teachers, strict=True))


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
        layers: how many layers of each network come, by mappings; each pair has a regressor of its own, and their
            losses are added.

    Shapes:
        feature_maps, teacher_feature_maps: [B, channels, height, width], [B, T, D] or [B, D], of any two numbers of
        channels; the teacher's map twice as high and wide, or not larger. Or {layer: such tensors}, layer by layer in
        the same order.

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

    def __init__(self, regressor: nn.Module | None = None, layers: int = 1) -> None:
        super().__init__()
        check_count("fitnet_hint", "layers", layers)
        if regressor is not None and layers > 1:
            raise ValueError(f"fitnet_hint: layers={layers} came with one regressor; leave one of them out.")
        self.layers = layers
        if layers > 1:
            regressor = nn.ModuleList(_Regressor() for _ in range(layers))
        self.regressor = _Regressor() if regressor is None else regressor

    def forward(
        self, feature_maps: Maps | Mapping[str, Maps], teacher_feature_maps: Maps | Mapping[str, Maps]
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        pairs = _pairs(feature_maps, teacher_feature_maps)
        if len(pairs) != self.layers:
            raise ValueError(f"fitnet_hint: {len(pairs)} layers came for layers={self.layers}; give as many.")
        regressors = [self.regressor] if self.layers == 1 else self.regressor.children()
        values = [_hint(regressor, *pair) for regressor, pair in zip(regressors, pairs, strict=True)]
        return sum(values[1:], values[0])


def _hint(regressor: nn.Module, student: Maps, teacher: Maps) -> Float[Tensor, ""]:
    teacher = teacher.detach()
    if not isinstance(regressor, _Regressor):
        return fitnet_hint_loss(regressor(student), teacher)
    if len(student) == 0:
        return full_precision(student).sum() * 0.0
    return fitnet_hint_loss(regressor(student, teacher), teacher)
