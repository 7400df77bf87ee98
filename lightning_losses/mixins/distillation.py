"""The mixin that gives a LightningModule a frozen teacher."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.teachers import CachedLogits
from lightning_losses.teachers.feature_taps import FeatureTap, layers_to_tap, offered_features

_OFFERED = ("teacher_logits", "each_teacher_logits", "teacher_features", "teacher_feature_maps")


class DistillationMixin(ObjectiveMixin):
    """Gives a LightningModule a frozen teacher, and its objective the `teacher_logits`.

    Set `self.teacher`, to a module, or to what `lightning_losses.teachers` makes of a timm name, a checkpoint or a
    cache of logits. The teacher is no submodule: it is in neither `state_dict` nor `parameters`, no optimizer, DDP or
    FSDP sees it, and `train()` leaves it in evaluation mode. It follows the module's device and precision, and runs
    without gradients on the step's `inputs` whenever a term takes `teacher_logits`, `teacher_features` (pooled to
    [B, D]) or `teacher_feature_maps` (as they are); of a `TeacherEnsemble` a term may take `each_teacher_logits`, by
    teacher. Override `teacher_tensors` to hand more to the objective.

    Attributes:
        teacher_layer: the layer whose output the teacher's features are; None for its last but one stage, "all" for
            every stage. Of several layers the maps are a mapping by layer, the features the last one's.

    Example:
        >>> import lightning
        >>> from lightning_losses import KD, Objective
        >>> class Student(DistillationMixin, lightning.LightningModule):
        ...     def __init__(self, teacher):
        ...         super().__init__()
        ...         self.network = nn.Linear(4, 3)
        ...         self.teacher = teacher
        ...         self.objective = Objective({"kd": KD()})
        ...     def training_step(self, batch, batch_idx):
        ...         inputs, target = batch
        ...         return self.apply_objective(inputs=inputs, logits=self.network(inputs), target=target)
        >>> student = Student(nn.Linear(4, 3))
        >>> sorted(student.state_dict())
        ['network.bias', 'network.weight']
    """

    teacher_layer: str | Sequence[str] | None = None

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher, outside `parameters` and `state_dict`; None until it is set."""
        return self.__dict__.get("_teacher")

    @teacher.setter
    def teacher(self, value: nn.Module | None) -> None:
        if value is not None and not isinstance(value, nn.Module):
            raise ValueError(
                f"teacher: a {type(value).__name__} came; give a module, such as timm_teacher, checkpoint_teacher and "
                "CachedLogits of lightning_losses.teachers make."
            )
        self.__dict__["_teacher"] = None if value is None else value.eval().requires_grad_(False)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; nn.Module would register a `teacher` as submodule before its setter is asked."""
        if name == "teacher":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self.teacher is not None:
            self.teacher._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add what the teacher says about this batch, where the objective asks for it."""
        tensors = super().objective_tensors(tensors)
        if any(self.objective.needs(name) and name not in tensors for name in _OFFERED):
            tensors = {**self.teacher_tensors(tensors), **tensors}
        return tensors

    @torch.no_grad()
    def teacher_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """What the teacher says about this batch, under glossary names; override it to give more."""
        taken = ", ".join(repr(name) for name in _OFFERED if self.objective.needs(name))
        if self.teacher is None:
            raise ValueError(
                f"{type(self).__name__}: the objective takes {taken}, but no teacher is set; "
                "set self.teacher, or give apply_objective teacher_logits=...."
            )
        needed = self._teacher_input(tensors)
        if needed not in tensors:
            raise ValueError(
                f"{type(self).__name__}: the teacher works on '{needed}', but the step offered "
                f"{', '.join(map(repr, sorted(tensors)))}; give apply_objective {needed}=...."
            )
        if not self.objective.needs("teacher_features") and not self.objective.needs("teacher_feature_maps"):
            return self._teacher_logits(self.teacher, tensors[needed])
        if isinstance(self.teacher, CachedLogits):
            found = self._teacher_logits(self.teacher, tensors[needed])
            features = self.teacher.features(tensors[needed], self.teacher_layer)
        else:
            with FeatureTap(self.teacher, layers_to_tap(self.teacher, self.teacher_layer)) as tap:
                found = self._teacher_logits(self.teacher, tensors[needed])
            features = tap.latest()
        vectors, maps = offered_features(features)
        if self.objective.needs("teacher_features"):
            found["teacher_features"] = vectors
        if self.objective.needs("teacher_feature_maps"):
            found["teacher_feature_maps"] = maps
        return found

    def _teacher_input(self, tensors: dict[str, Any]) -> str:
        if not isinstance(self.teacher, CachedLogits):
            return "inputs"
        # Where samples have several views, the cache goes by the view.
        return "view_index" if "view_index" in tensors else "index"

    def _teacher_logits(self, teacher: nn.Module, inputs: Any) -> dict[str, Any]:
        if not self.objective.needs("each_teacher_logits"):
            output = teacher(inputs)
            return {"teacher_logits": output if isinstance(output, Tensor) else output.logits}
        ensemble: Any = teacher
        if not callable(getattr(ensemble, "each", None)):
            raise ValueError(
                f"{type(self).__name__}: the objective takes 'each_teacher_logits', but the teacher is a "
                f"{type(teacher).__name__}; give a TeacherEnsemble."
            )
        each = ensemble.each(inputs)
        return {"teacher_logits": ensemble.mean(each), "each_teacher_logits": each}
