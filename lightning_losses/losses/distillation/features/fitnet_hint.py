"""FitNet hint: a regressor on the student's layer predicts the teacher's."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.features.regressors import Regressor
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction
from lightning_losses.numerics.settings import Count

Maps = Float[Tensor, "batch ..."]


class FitNetHint(Loss):
    """FitNet hint: a regressor on the student's layer predicts the teacher's.

    ``mean (r(F_s) - F_t)²`` over all elements. The regressor r belongs to the loss: it takes its shapes from the first
    batch, and is trained and saved with the loss. For maps it is a convolution, batch norm and ReLU. The convolution is
    3 x 3 of stride 2 if the student's map is twice as large as the teacher's, a transposed 4 x 4 of stride 2 if it is
    half as large, and otherwise one without padding whose kernel makes up the difference. For vectors and tokens r is a
    linear layer.

    Args:
        regressor: a module to use as r, called with the student's layer alone; ``nn.Identity()`` compares the layers as
            they are.
        layers: number of layers of each network, at least 1; more than one come as mappings. Each pair has a regressor
            of its own, and their losses are added.

    Shapes:
        feature_maps, teacher_feature_maps: [B, channels, height, width], [B, T, D] or [B, D], with any numbers of
        channels. The teacher's map is twice as high and wide as the student's, or not larger. Or {layer: such tensors}
        with the layers in the same order.

    Returns:
        A scalar.

    Raises:
        ValueError: layers of shapes that no regressor connects, or of other dtypes.

    Source:
        Romero, Ballas, Kahou, Chassang, Gatta, Bengio, 2015, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, with
        the regressor of megvii-research/mdistiller, which trains it together with cross-entropy (weight 100) and not in
        a stage of its own.

    Example:
        >>> maps = torch.ones(2, 3, 4, 4)
        >>> FitNetHint(nn.Identity())(maps, 3 * maps).item()
        4.0
        >>> FitNetHint()(maps, torch.ones(2, 5, 2, 2)).shape
        torch.Size([])
    """

    status = "paper"
    evidence = "no golden values; torch's layers and mean squared error in its tests"

    # A mean over samples, so processes with unequal batches are weighed by their samples.
    reduction: ClassVar[Reduction] = "mean"

    regressor: nn.Module | None = None
    layers: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regressor is not None and self.layers > 1:
            raise ValueError(
                f"{self._identifier}: layers={self.layers} came with one regressor; leave one of them out."
            )
        if self.layers > 1:
            self.regressor = nn.ModuleList(Regressor() for _ in range(self.layers))
        elif self.regressor is None:
            self.regressor = Regressor()

    def forward(
        self, feature_maps: Maps | Mapping[str, Maps], teacher_feature_maps: Maps | Mapping[str, Maps]
    ) -> Float[Tensor, ""]:
        """Check, regress and compare; see the class."""
        students, teachers = (
            list(maps.values()) if isinstance(maps, Mapping) else [maps]
            for maps in (feature_maps, teacher_feature_maps)
        )
        for name, tensors in (("feature_maps", students), ("teacher_feature_maps", teachers)):
            for tensor in tensors:
                check_floating(self._identifier, name, tensor)
        if len(students) != len(teachers) or not students:
            raise ValueError(
                f"{self._identifier}: {len(students)} feature_maps came with {len(teachers)} teacher_feature_maps; "
                "give as many layers of both networks, in the same order."
            )
        if len(students) != self.layers:
            raise ValueError(f"{self._identifier}: {len(students)} layers came for layers={self.layers}; give as many.")
        assert self.regressor is not None
        regressors = [self.regressor] if self.layers == 1 else self.regressor.children()
        values = [
            self._difference(regressor, student, teacher.detach())
            for regressor, student, teacher in zip(regressors, students, teachers, strict=True)
        ]
        return sum(values[1:], values[0])

    def _difference(self, regressor: nn.Module, student: Maps, teacher: Maps) -> Float[Tensor, ""]:
        """The mean squared difference of one layer."""
        if not isinstance(regressor, Regressor):
            student = regressor(student)
        elif student.shape[:1] == (0,):  # there is nothing to take shapes from
            return full_precision(student).sum() * 0.0
        else:
            student = regressor(student, teacher)
        if student.shape != teacher.shape:
            raise ValueError(
                f"{self._identifier}: feature_maps of shape {list(student.shape)} came with teacher_feature_maps of "
                f"shape {list(teacher.shape)}; give both the same, or let FitNetHint make a regressor."
            )
        student = full_precision(student)
        difference = student - full_precision(teacher).to(student.dtype)
        return difference.square().sum() / max(difference.numel(), 1)
