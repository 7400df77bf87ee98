"""One named loss of an objective."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_losses.losses.adapted import Adapted
from lightning_losses.losses.base import Loss, forward_inputs
from lightning_losses.objective.schedules import Schedule

_FORWARDS_OF_TORCH = (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)


class Count(NamedTuple):
    """How many samples a mean is over.

    Attributes:
        samples: [] what the mean divides by on these tensors.
        kind: counts of one kind are of the same samples, batch after batch, where they are made `of` the same.
        of: the tensor, or the number of rows, that was counted.
    """

    samples: Float[Tensor, ""]
    kind: Hashable
    of: Any

    def is_of(self, kind: Hashable, of: Any) -> bool:
        """Whether it is of a kind, and made of something."""
        return self.kind == kind and (self.of is of or (isinstance(of, int) and self.of == of))

    def is_of_same(self, other: "Count") -> bool:
        """Whether the two count the same samples of the same tensors."""
        return self.is_of(other.kind, other.of)


class Term(nn.Module):
    """One named loss of an objective: what it computes, how much it weighs, where its tensors come from.

    Args:
        loss: a `Loss`, any module or any function whose arguments are named tensors and whose result is a scalar.
        weight: a finite number, or a schedule that maps the fraction of training done to one.
        inputs: for losses with names of their own, ``{argument: tensor of the step}``; None leaves out one that the
            loss can do without, as ``{"target": None}`` does, so that distillation counts samples without a label.

    Example:
        >>> term = Term(torch.nn.CrossEntropyLoss(), inputs={"input": "logits"})
        >>> term.needs
        {'logits': True, 'target': True}
    """

    def __init__(
        self,
        # Modules by name as well: LightningCLI builds nothing of which an annotation says only that it is callable.
        loss: nn.Module | Callable[..., Tensor],
        weight: float | Schedule = 1.0,
        inputs: Mapping[str, str | None] | None = None,
    ) -> None:
        super().__init__()
        if not callable(loss):
            raise ValueError(f"Term: loss={loss!r} came; give a Loss, a module or a function.")
        if not callable(weight) and not (isinstance(weight, (int, float)) and math.isfinite(weight)):
            raise ValueError(f"Term: weight={weight!r} came; give a finite number or a schedule of progress.")
        self.loss = loss
        self.weight = weight
        # A module that wraps another loss has the signature of that one.
        signed = hasattr(loss, "__signature__")
        takes = forward_inputs(loss.forward if isinstance(loss, nn.Module) and not signed else loss)
        renamed = dict(inputs or {})
        if unknown := sorted(set(renamed) - set(takes)):
            raise ValueError(
                f"Term: inputs name {unknown}, which {name_of(loss)} does not take; it takes {list(takes)}."
            )
        if missing := [argument for argument, source in renamed.items() if source is None and takes[argument]]:
            raise ValueError(f"Term: inputs leave out {missing}, which {name_of(loss)} can't do without.")
        self._arguments = {
            argument: (source, required)
            for argument, required in takes.items()
            if (source := renamed.get(argument, argument)) is not None
        }
        self._inputs = renamed
        self._needs = dict(self._arguments.values())

    @property
    def needs(self) -> dict[str, bool]:
        """The step's tensors that this term takes, by name: True where it can't do without."""
        return self._needs

    def source(self, argument: str) -> str:
        """The name of the step's tensor that the loss takes as this argument."""
        return self._arguments[argument][0]

    def given(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Of a step's tensors what the loss takes, by its arguments' names."""
        return {argument: tensors[source] for argument, (source, _) in self._arguments.items() if source in tensors}

    def leaves_out(self, argument: str) -> bool:
        """Whether the loss takes this argument, but `inputs` leaves it out."""
        return self._inputs.get(argument, argument) is None

    def asks_for(self, source: str) -> bool:
        """Whether the loss can't do without this tensor of the step, or `inputs` name it."""
        return self._needs.get(source, False) or source in self._inputs.values()

    @property
    def batch_coupled(self) -> bool:
        """Whether the loss must see the batch of all processes: by its definition, or by a batch norm that it holds."""
        if getattr(self.loss, "batch_coupled", False):
            return True
        parts = self.loss.modules() if isinstance(self.loss, nn.Module) else ()
        return any(isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm) for part in parts)

    def count(self, tensors: Mapping[str, Any], known: Iterable[Count] = ()) -> Count | None:
        """The number of samples in the loss's mean; None if it is no mean over samples, or unknown.

        Known are the losses of this library and torch's own of class indices.

        Args:
            tensors: of the step.
            known: what other terms counted of them: one that is the same is returned.
        """
        taken: dict[str, Any] = {argument: tensors.get(source) for argument, (source, _) in self._arguments.items()}
        of_torch = self._of_torch()
        if of_torch is not None:
            given = self.loss.arguments(taken) if isinstance(self.loss, Adapted) else taken
            return _count_of_torch(of_torch, given, id(self))
        if not isinstance(self.loss, Loss):
            return None
        if getattr(self.loss, "reduction", "mean" if self.batch_coupled else None) != "mean":
            return None
        # Of tensors by layer any tells the number of samples.
        plain = {
            name: next(iter(value.values()), None) if isinstance(value, Mapping) else value
            for name, value in taken.items()
        }
        tensors_of = {name: value for name, value in plain.items() if isinstance(value, Tensor)}
        kind, of = self._kind(self.loss, tensors_of)
        same = next((one for one in known if one.is_of(kind, of)), None)
        return same or Count(self.loss.denominator(**tensors_of), kind, of)

    def _of_torch(self) -> nn.CrossEntropyLoss | nn.NLLLoss | None:
        """Torch's own loss of class indices, also as a function, whose mean divides by the weights of the classes."""
        loss: Any = self.loss.loss if isinstance(self.loss, Adapted) else self.loss
        # What a subclass makes of it by a forward of its own, nobody can tell.
        if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and type(loss).forward in _FORWARDS_OF_TORCH:
            return loss
        given: tuple[Any, ...] = getattr(loss, "args", ())
        function, options = getattr(loss, "func", loss), getattr(loss, "keywords", {})
        if given or function not in (F.cross_entropy, F.nll_loss):
            return None
        kept = {name: options[name] for name in ("weight", "ignore_index", "reduction") if name in options}
        return nn.CrossEntropyLoss(**kept)

    def _kind(self, loss: Loss, given: Mapping[str, Tensor]) -> tuple[Hashable, Any]:
        target, ignored = given.get("target"), getattr(loss, "ignore_index", None)
        # Cross-entropy that weighs no classes counts as the others do.
        plain = type(loss).denominator is Loss.denominator or getattr(loss, "class_weight", self) is None
        if not plain:
            return id(self), target
        if target is not None and ignored is not None:
            return ("kept", None if target.is_floating_point() else ignored), target
        rows = given["logits"].shape[:-1] if "logits" in given else next(iter(given.values())).shape[:1]
        return ("rows", len(rows)), rows.numel()

    def weight_at(self, progress: float | None) -> float:
        """The weight at this fraction of training."""
        if not callable(self.weight):
            return self.weight
        if progress is None:
            raise ValueError(
                f"Term: the weight of {name_of(self.loss)} follows a schedule, but the step gave no 'progress'; set "
                "max_steps (or max_epochs, where the loader has a length), or give progress=, from 0 to 1, yourself."
            )
        weight = self.weight(float(progress))
        if not math.isfinite(weight):
            raise ValueError(
                f"Term: the schedule of {name_of(self.loss)} gave the weight {weight} at progress {progress:g}; give "
                "one of finite numbers."
            )
        return weight

    def forward(self, tensors: Mapping[str, Any]) -> Tensor:
        """Evaluate the loss, unweighted, on the tensors that it takes."""
        return self.loss(**self.given(tensors))

    def extra_repr(self) -> str:
        """The weight."""
        return f"weight={self.weight}"


def name_of(loss: Callable[..., Any]) -> str:
    """What errors call a loss: the name of its class or function."""
    return type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", repr(loss))


def _count_of_torch(loss: nn.CrossEntropyLoss | nn.NLLLoss, given: Mapping[str, Any], owner: int) -> Count | None:
    if loss.reduction != "mean":
        return None
    scores, target, weight = given["input"], given["target"], given.get("weight")
    weight = loss.weight if weight is None else weight
    if target.is_floating_point():
        rows = scores.numel() // scores.shape[min(1, scores.ndim - 1)]
        return Count(torch.full((), rows, device=scores.device), ("rows", scores.ndim - 1), rows)
    kept = target != loss.ignore_index
    if weight is None:
        return Count(kept.sum(), ("kept", loss.ignore_index), target)
    return Count((weight.to(target.device)[target.masked_fill(~kept, 0)] * kept).sum(), owner, target)
