"""How often each class occurs in training: the counts that losses of imbalance take, with the absent classes' share."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_choice

Smoothing = Literal["clamp", "add_one"]
ClassCounts = Sequence[float] | Float[Tensor, " classes"]


class ClassPrior(nn.Module):
    """The training samples of each class, as a part of the loss or the calibrator that takes them.

    The counts are a buffer, empty until they are given: to the constructor, by `set_counts`, or by the callback
    `lightning_losses.callbacks.companions.class_counts.ClassCounts`, which finds every `ClassPrior` of a module. They
    are in checkpoints, and no module of half precision narrows them.

    Args:
        owner: the name that errors begin with.
        class_counts: [C] samples of each class, or their mass, at least 0; None where the callback counts them.
        smoothing: what a class without samples counts as: "clamp" takes 1 for every count below it; "add_one" adds 1 to
            every count.

    Raises:
        ValueError: counts that are no numbers of at least 0, or all 0.

    Example:
        >>> prior = ClassPrior("demo", [8, 2, 0])
        >>> prior.smoothed(3), ClassPrior("demo", [7, 1, 0], "add_one").log_prior(3).exp()
        (tensor([8., 2., 1.], dtype=torch.float64), tensor([0.7273, 0.1818, 0.0909], dtype=torch.float64))
        >>> ClassPrior("demo").smoothed(3)
        Traceback (most recent call last):
        ValueError: demo: no class counts are known; give class_counts=[...], a number for each class, or the trainer \
the callback ClassCounts, which counts the training set.
    """

    counts: Tensor

    def __init__(self, owner: str, class_counts: ClassCounts | None = None, smoothing: Smoothing = "clamp") -> None:
        super().__init__()
        check_choice(owner, "smoothing", smoothing, Smoothing)
        self.owner = owner
        self.smoothing = smoothing
        self.register_buffer("counts", torch.empty(0))
        if class_counts is not None:
            self.set_counts(class_counts)

    @property
    def known(self) -> bool:
        """Whether there are counts."""
        return self.counts.numel() > 0

    @torch.no_grad()
    def set_counts(self, class_counts: ClassCounts) -> Self:
        """Set the samples of each class.

        Raises:
            ValueError: counts that are no numbers of at least 0, or all 0.
        """
        try:
            given = torch.as_tensor(class_counts, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            given = torch.empty(0)
        if given.ndim != 1 or not bool((given.isfinite() & (given >= 0)).all()) or not float(given.sum()) > 0:
            came = class_counts.tolist() if isinstance(class_counts, Tensor) else class_counts
            raise ValueError(
                f"{self.owner}: class_counts={came} came; give a number of at least 0 for each class, not all of them "
                "0."
            )
        self.counts = given.detach().clone().to(self.counts.device)
        return self

    def smoothed(self, classes: int) -> Float[Tensor, " classes"]:
        """The count of each class, above 0, in float64 where the device has it.

        Raises:
            ValueError: no counts; those of another number of classes.
        """
        if not self.known:
            raise ValueError(
                f"{self.owner}: no class counts are known; give class_counts=[...], a number for each class, or the "
                "trainer the callback ClassCounts, which counts the training set."
            )
        if len(self.counts) != classes:
            raise ValueError(
                f"{self.owner}: logits of {classes} classes came with class_counts of {len(self.counts)}; give one "
                "number for each class."
            )
        wide = self.counts if self.counts.device.type == "mps" else self.counts.double()
        return wide + 1 if self.smoothing == "add_one" else wide.clamp(min=1)

    def log_prior(self, classes: int) -> Float[Tensor, " classes"]:
        """The logarithm of each class's share of the smoothed counts."""
        counts = self.smoothed(classes)
        return counts.log() - counts.sum().log()

    def extra_repr(self) -> str:
        """The choice, and whether there are counts."""
        return f"smoothing={self.smoothing!r}, known={self.known}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Half precision would round the counts of frequent classes.
        counts = self.counts
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.counts = counts.to(self.counts.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The buffer has no shape before it is set: it takes the one that the state brings.
        value = state_dict.get(prefix + "counts")
        if isinstance(value, Tensor):
            self.counts = torch.empty_like(value, device=self.counts.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


@runtime_checkable
class TakesClassCounts(Protocol):
    """What is told the counts: a `ClassPrior`, or a calibrator made of counts."""

    known: bool

    def set_counts(self, class_counts: ClassCounts) -> Any:
        """Take the training samples of each class."""


def tell_class_counts(module: nn.Module, counts: ClassCounts) -> None:
    """Give these counts to every part of a module that takes class counts and has none.

    Example:
        >>> prior = ClassPrior("demo")
        >>> tell_class_counts(prior, [3, 1])
        >>> prior.counts.tolist()
        [3.0, 1.0]
    """
    for part in without_class_counts(module):
        part.set_counts(counts)


def without_class_counts(module: nn.Module) -> list[TakesClassCounts]:
    """Every part of a module that takes class counts and has none.

    Example:
        >>> without_class_counts(ClassPrior("demo", [3, 1]))
        []
    """
    return [part for part in module.modules() if isinstance(part, TakesClassCounts) and not part.known]
