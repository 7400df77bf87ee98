"""The mixin that gives a LightningModule a frozen teacher."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_losses.environment.lightning_internals import forget_hyperparameters
from lightning_losses.mixins.tapped_features import TappedFeatures
from lightning_losses.networks.calls import call, logits_of
from lightning_losses.teachers import CachedLogits
from lightning_losses.teachers.feature_taps import FeatureTap, layers_to_tap, offered_features
from lightning_losses.teachers.held_teacher import HeldTeacher

_OFFERED = ("teacher_logits", "each_teacher_logits", "teacher_features", "teacher_feature_maps")


class DistillationMixin(TappedFeatures):
    """Gives a LightningModule a frozen teacher, and its objective the `teacher_logits`.

    Set `self.teacher` to a module; `lightning_losses.teachers` makes one from a timm name, a checkpoint or a cache of
    logits. The teacher is not a submodule: it is in neither `state_dict` nor `parameters`, optimizers, DDP and FSDP
    don't see it, and `train()` leaves it in evaluation mode. Saved hyperparameters leave it out, and deep copies of the
    module share it. Modules that the teacher shares with the student, for example if it is the same network without
    its adapter, are trained as usual.

    The teacher follows the module's device and precision, and runs without gradients on the step's `inputs` (by name,
    if they are a mapping). It runs only if a term takes `teacher_logits`, `teacher_features` (pooled to [B, D]) or
    `teacher_feature_maps` (unpooled); `tap` chooses the layers. With a `TeacherEnsemble` a term may take
    `each_teacher_logits`, by teacher. The teacher's output is a tensor, a tuple that begins with one, or a mapping or
    object that holds it as "logits" or "out". Override `teacher_tensors` to give the objective further tensors.

    Attributes:
        teacher_layer: the layer whose output gives the teacher's features; None for its last but one stage, "all" for
            every stage. With several layers the maps are a mapping by layer, and the features are the last layer's.

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
        held = self._held_teacher
        return None if held is None else held.network

    @teacher.setter
    def teacher(self, value: nn.Module | None) -> None:
        if value is not None and not isinstance(value, nn.Module):
            raise ValueError(
                f"teacher: a {type(value).__name__} came; give a module, for example from timm_teacher, "
                "checkpoint_teacher or CachedLogits in lightning_losses.teachers."
            )
        self.__dict__["_teacher"] = None if value is None else HeldTeacher(value)
        self._part_from_teacher()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; nn.Module would register a `teacher` as submodule before its setter is asked."""
        if name == "teacher":
            object.__setattr__(self, name, value)
            return
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            self._part_from_teacher()

    def save_hyperparameters(
        self,
        *arguments: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Save the constructor's arguments as Lightning does, without the teacher."""
        frame = frame or inspect.currentframe().f_back  # type: ignore[union-attr]
        given = {} if frame is None else frame.f_locals
        # Lightning would copy the teacher before it is recognised.
        teachers = [name for name, value in given.items() if name == "teacher" and isinstance(value, nn.Module)]
        left_out = [ignore] if isinstance(ignore, str) else list(ignore or [])
        super().save_hyperparameters(*arguments, ignore=[*left_out, *teachers], frame=frame, logger=logger)
        self._part_from_teacher()

    def tap(
        self,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        *,
        example_inputs: Any = None,
    ) -> None:
        """Give the objective the outputs of layers of both networks, as `features`, `feature_maps` and the teacher's.

        Call it in the constructor, after networks, teacher and objective are set. It adds no forward passes to those of
        student and teacher.

        Args:
            student: a layer of `self.network`, or of the module itself, by its name in ``named_modules()``; several
                layers, whose maps are a mapping by layer, in order; "all" for every stage of a network that lists its
                stages, as timm's networks do; None for the last but one.
            teacher: the same for the teacher.
            example_inputs: a batch of inputs, from which losses without fixed shapes take their shapes at once; needed
                with several processes.

        Raises:
            ValueError: an unknown layer; the message lists the existing ones.

        Example:
            >>> import lightning
            >>> from lightning_losses import RKD, Objective
            >>> class Student(DistillationMixin, lightning.LightningModule):
            ...     def __init__(self, teacher):
            ...         super().__init__()
            ...         self.network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            ...         self.teacher = teacher
            ...         self.objective = Objective({"rkd": RKD()})
            ...         self.tap(student="1", teacher="0")
            ...     def training_step(self, batch, batch_idx):
            ...         return self.apply_objective(inputs=batch, logits=self.network(batch))
            >>> student = Student(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 3)))
            >>> student.training_step(torch.randn(5, 4), 0)["loss"].shape
            torch.Size([])
        """
        own = getattr(self, "network", None)
        network: nn.Module = own if isinstance(own, nn.Module) else self
        layers = {student} if isinstance(student, str) else set(student or ())
        there, whole = (dict(part.named_modules()).keys() for part in (network, self))
        listened = self if layers and layers <= whole and not layers <= there else network
        self.tap_features(listened, student, who=f"{type(self).__name__}.tap: student")
        self.teacher_layer = teacher
        if self.teacher is not None and not isinstance(self.teacher, CachedLogits):
            self._teacher_tap(self.teacher).close()
        if example_inputs is not None:
            self.materialize_objective(network, example_inputs)

    def _teacher_tap(self, teacher: nn.Module) -> FeatureTap:
        who = f"{type(self).__name__}: teacher_layer"
        return FeatureTap(teacher, layers_to_tap(teacher, self.teacher_layer, who), who, copies=True)

    @contextmanager
    def teacher_in_evaluation(self) -> Iterator[None]:
        """Within this context the whole teacher is in evaluation mode, modules that it shares with the student too."""
        held = self._held_teacher
        assert held is not None
        with held.in_evaluation():
            yield

    @property
    def _held_teacher(self) -> HeldTeacher | None:
        held: HeldTeacher | None = self.__dict__.get("_teacher")
        return held

    def _part_from_teacher(self) -> None:
        """Leave the teacher out of the hyperparameters, and leave shared modules to the student."""
        held = self._held_teacher
        # A constructor may set the teacher before nn.Module is initialised.
        if held is not None and "_modules" in self.__dict__:
            held.leave_to(self)
            forget_hyperparameters(self, held.is_in)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self.teacher is not None:
            self.teacher._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def objective_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Add the teacher's outputs for this batch, if the objective takes them."""
        tensors = super().objective_tensors(tensors)
        if any(self.objective.needs(name) and name not in tensors for name in _OFFERED):
            tensors = {**self.teacher_tensors(tensors), **tensors}
        return tensors

    @torch.no_grad()
    def teacher_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """The teacher's outputs for this batch, under glossary names; override it to give more."""
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
        # The teacher may share layers with the network.
        with self.teacher_in_evaluation(), self.beside_the_batch():
            return self._teacher_tensors(self.teacher, tensors[needed])

    def _teacher_tensors(self, teacher: nn.Module, inputs: Any) -> dict[str, Any]:
        if not self.objective.needs("teacher_features") and not self.objective.needs("teacher_feature_maps"):
            return self._teacher_logits(teacher, inputs)
        if isinstance(teacher, CachedLogits):
            offered = self._teacher_logits(teacher, inputs)
            features = teacher.features(inputs, self.teacher_layer)
        else:
            with self._teacher_tap(teacher) as tap:
                offered = self._teacher_logits(teacher, inputs)
            features = tap.latest()
        vectors, maps = offered_features(features)
        if self.objective.needs("teacher_features"):
            offered["teacher_features"] = vectors
        if self.objective.needs("teacher_feature_maps"):
            offered["teacher_feature_maps"] = maps
        return offered

    def _teacher_input(self, tensors: dict[str, Any]) -> str:
        if not isinstance(self.teacher, CachedLogits):
            return "inputs"
        # If samples have several views, the cache is indexed by view.
        return "view_index" if "view_index" in tensors else "index"

    def _teacher_logits(self, teacher: nn.Module, inputs: Any) -> dict[str, Any]:
        if not self.objective.needs("each_teacher_logits"):
            return {"teacher_logits": logits_of(f"{type(self).__name__}: the teacher", call(teacher, inputs))}
        ensemble: Any = teacher
        if not callable(getattr(ensemble, "each", None)):
            raise ValueError(
                f"{type(self).__name__}: the objective takes 'each_teacher_logits', but the teacher is a "
                f"{type(teacher).__name__}; give a TeacherEnsemble."
            )
        each = ensemble.each(inputs)
        return {"teacher_logits": ensemble.mean(each), "each_teacher_logits": each}
