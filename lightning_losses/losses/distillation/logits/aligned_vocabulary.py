"""Distillation between vocabularies that differ: any loss of logits, on the classes that both networks have."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.divergences.kd import KD
from lightning_losses.numerics.checks import check_choice, check_floating, debugging
from lightning_losses.numerics.probabilities import known_somewhere
from lightning_losses.numerics.rows import classification_rows

Policy = Literal["error", "truncate", "map"]
_NAME = "aligned_vocabulary"


class SharedClasses(NamedTuple):
    """The shared classes in the student's and in the teacher's numbering: equally long, in the same order.

    Attributes:
        student: the student's classes, as a slice of the first ones or as indices.
        teacher: the teacher's classes, likewise.
    """

    student: slice | Int[Tensor, " shared"]
    teacher: slice | Int[Tensor, " shared"]


def shared_classes(
    student_size: int,
    teacher_size: int,
    *,
    policy: Policy = "error",
    student_classes: Sequence[int] | Int[Tensor, " shared"] | None = None,
    teacher_classes: Sequence[int] | Int[Tensor, " shared"] | None = None,
    devices: tuple[torch.device | None, torch.device | None] = (None, None),
) -> SharedClasses:
    """The classes that two vocabularies share, by a policy; see `AlignedVocabulary`.

    Indices that lie on a GPU are checked under `debug` alone, since the check would wait for it.

    Args:
        student_size: the student's number of classes.
        teacher_size: the teacher's.
        policy, student_classes, teacher_classes: as `AlignedVocabulary` takes them.
        devices: where the student's and the teacher's indices are to lie; None leaves a tensor where it is.

    Raises:
        ValueError: with "error", sizes that differ; with "map", lists that are missing, differ in length, name a class
            twice or name one that does not exist.

    Example:
        >>> shared_classes(5, 3, policy="truncate")
        SharedClasses(student=slice(0, 3, None), teacher=slice(0, 3, None))
    """
    check_choice(_NAME, "policy", policy, Policy)
    if policy == "error" and student_size != teacher_size:
        raise ValueError(
            f"{_NAME}: teacher_logits of {teacher_size} classes came with logits of {student_size}; choose "
            "policy='truncate' if the first classes are the same, or policy='map' with lists of the shared classes."
        )
    if policy != "map":
        shared = min(student_size, teacher_size)
        return SharedClasses(slice(0, shared), slice(0, shared))
    chosen = []
    for name, classes, size, device in (
        ("student_classes", student_classes, student_size, devices[0]),
        ("teacher_classes", teacher_classes, teacher_size, devices[1]),
    ):
        index = torch.as_tensor([] if classes is None else classes, dtype=torch.int64)
        readable = index.device.type == "cpu" or debugging()
        if index.ndim != 1 or not len(index) or (readable and not _exist_once(index, size)):
            raise ValueError(
                f"{_NAME}: {name} of shape {list(index.shape)} came for {size} classes; give indices of existing "
                "classes, each once."
            )
        chosen.append(_sent(index, device))
    if len(chosen[0]) != len(chosen[1]):
        raise ValueError(
            f"{_NAME}: {len(chosen[0])} student_classes came with {len(chosen[1])} teacher_classes; give pairs."
        )
    return SharedClasses(*chosen)


def _exist_once(index: Int[Tensor, " shared"], size: int) -> bool:
    entries = index.tolist()
    return min(entries) >= 0 and max(entries) < size and len(set(entries)) == len(entries)


def _sent(index: Int[Tensor, " shared"], device: torch.device | None) -> Int[Tensor, " shared"]:
    if device is None or device == index.device:
        return index
    # From pinned memory the host does not wait for the copy.
    pinned = index.pin_memory() if device.type == "cuda" and torch.cuda.is_available() and not index.is_cuda else index
    return pinned.to(device, non_blocking=True)


def shared_target(
    target: Int[Tensor, "*rows"], student_size: int, shared: SharedClasses, ignore_index: int = -100
) -> Int[Tensor, "*rows"]:
    """Targets as positions among the shared classes; `ignore_index` for a class that is not shared."""
    places = torch.full((student_size,), ignore_index, dtype=torch.int64, device=target.device)
    student = shared.student if isinstance(shared.student, slice) else shared.student.to(target.device)
    shared_size = student.stop if isinstance(student, slice) else len(student)
    places[student] = torch.arange(shared_size, device=target.device)
    kept = target != ignore_index
    if known_somewhere(kept & ((target < 0) | (target >= student_size))):
        wrong = target[kept & ((target < 0) | (target >= student_size))].flatten()[0]
        raise ValueError(
            f"{_NAME}: target {int(wrong)} came with {student_size} classes; give 0 to {student_size - 1}, or "
            f"ignore_index={int(wrong)}."
        )
    return places[target.masked_fill(~kept, 0)].masked_fill(~kept, ignore_index)


class AlignedVocabulary(Loss):
    """Distillation between vocabularies that differ: any loss of logits, on the classes that both networks have.

    Both networks' logits are cut to the shared classes, in the same order. So the probabilities are conditional on a
    shared class: classes of one network alone add nothing and get no gradient. Samples whose target is not shared are
    ignored. "error" accepts equal vocabularies only; "truncate" shares the first classes, for vocabularies padded to
    different sizes; "map" takes two lists.

    Args:
        loss: a loss of `logits`, `teacher_logits` and optionally `target`; None for `KD`.
        policy: "error", "truncate" or "map".
        student_classes: for "map", the shared classes in the student's numbering.
        teacher_classes: for "map", the same classes in the teacher's numbering, in the same order.

    Shapes:
        logits: [..., C]; teacher_logits: [..., C']; target (optional): [...] class indices in the student's numbering.

    Returns:
        The loss's result.

    Raises:
        ValueError: shapes or dtypes that do not fit; vocabularies that differ more than the policy allows.

    Source:
        Language models of one family often pad their vocabularies to different sizes. Code that pads the smaller one
        with logits of 0 gives probability to classes that do not exist; nothing is padded here.

    Example:
        >>> loss = AlignedVocabulary(KD(temperature=1.0), policy="truncate")
        >>> logits = torch.tensor([[2.0, 0.0, 5.0]])  # the student's last class is its own
        >>> loss(logits, torch.tensor([[2.0, 0.0]])).item()
        0.0
    """

    status = "experimental"
    evidence = "no golden values: no formula of its own; the wrapped loss on shared classes in its tests"

    loss: Loss | None = None
    policy: Policy = "error"
    student_classes: Sequence[int] | None = None
    teacher_classes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy == "map":
            # Checked without the sizes, to refuse wrong lists at construction.
            shared = self._checked(2**62, 2**62)
            # On the loss's device: indices on the host would be copied at every step, which synchronises.
            for name, index in (("student_index", shared.student), ("teacher_index", shared.teacher)):
                # Two lists give tensors of indices.
                assert isinstance(index, Tensor)
                self.register_buffer(name, index, persistent=False)
        self.loss = KD() if self.loss is None else self.loss
        if not {"logits", "teacher_logits"} <= set(self.loss.inputs()):
            raise ValueError(
                f"{self._identifier}: {type(self.loss).__name__} came as loss; give one of logits and teacher_logits."
            )

    @property
    def reduction(self) -> Any:
        """The loss's."""
        return getattr(self.loss, "reduction", None)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """The number of kept samples; those whose target is not shared are left out."""
        assert self.loss is not None
        target, size = tensors.get("target"), tensors["logits"].shape[-1]
        if target is not None and not target.is_floating_point() and "target" in self.loss.inputs():
            shared = self._shared(size, tensors["teacher_logits"].shape[-1])
            tensors = {**tensors, "target": shared_target(target, size, shared, self._ignore_index)}
        return self.loss.denominator(**tensors)

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows teacher_classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, and evaluate the loss on the shared classes; see the class."""
        assert self.loss is not None
        check_floating(self._identifier, "teacher_logits", teacher_logits)
        classification_rows(self._identifier, logits, target, self._ignore_index, least_classes=1)
        if teacher_logits.shape[:-1] != logits.shape[:-1] or (
            self.policy == "error" and teacher_logits.shape[-1:] != logits.shape[-1:]
        ):
            raise ValueError(
                f"{self._identifier}: teacher_logits of shape {list(teacher_logits.shape)} came with logits of shape "
                f"{list(logits.shape)}; give both the same samples, and policy='truncate' or 'map' if classes differ."
            )
        size = logits.shape[-1]
        shared = self._shared(size, teacher_logits.shape[-1])
        tensors = {
            "logits": _chosen(logits, shared.student),
            "teacher_logits": _chosen(teacher_logits, shared.teacher),
        }
        if target is not None and "target" in self.loss.inputs():
            soft = target.is_floating_point()
            if soft and self.policy != "error":
                raise ValueError(
                    f"{self._identifier}: a target of probabilities came with policy={self.policy!r}; give class "
                    "indices."
                )
            tensors["target"] = target if soft else shared_target(target, size, shared, self._ignore_index)
        value: Tensor = self.loss(**tensors)
        return value

    @property
    def _ignore_index(self) -> int:
        return getattr(self.loss, "ignore_index", -100)

    def _shared(self, student_size: int, teacher_size: int) -> SharedClasses:
        checked = self._checked(student_size, teacher_size)
        if self.policy != "map":
            return checked
        return SharedClasses(*(getattr(self, f"{who}_index") for who in SharedClasses._fields))

    def _checked(self, student_size: int, teacher_size: int) -> SharedClasses:
        return shared_classes(
            student_size,
            teacher_size,
            policy=self.policy,
            student_classes=self.student_classes,
            teacher_classes=self.teacher_classes,
        )


def _chosen(logits: Tensor, classes: slice | Tensor) -> Tensor:
    return logits[..., classes if isinstance(classes, slice) else classes.to(logits.device)]
