"""One named loss of an objective."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_losses.losses.base import Loss, forward_inputs
from lightning_losses.objective.schedules import Schedule


class Term(nn.Module):
    """One named loss of an objective: what it computes, how much it weighs, where its tensors come from.

    Args:
        loss: a `Loss`, any module or any function whose arguments are named tensors and whose result is a scalar.
        weight: a finite number, or a schedule that maps the fraction of training done to one.
        inputs: for losses with names of their own, ``{argument: tensor of the step}``.

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
        inputs: Mapping[str, str] | None = None,
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
        self._arguments = {
            argument: (renamed.get(argument, argument), required) for argument, required in takes.items()
        }
        self._needs = dict(self._arguments.values())

    @property
    def needs(self) -> dict[str, bool]:
        """The step's tensors that this term takes, by name: True where it can't do without."""
        return self._needs

    @property
    def batch_coupled(self) -> bool:
        """Whether the loss must see the batch of all processes: by its definition, or by a batch norm that it holds."""
        if getattr(self.loss, "batch_coupled", False):
            return True
        parts = self.loss.modules() if isinstance(self.loss, nn.Module) else ()
        return any(isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm) for part in parts)

    def denominator(self, tensors: Mapping[str, Any]) -> Tensor | None:
        """What the loss's mean divides by on these tensors; None for what is no mean over samples or not ours."""
        if not isinstance(self.loss, Loss) or getattr(self.loss, "reduction", None) != "mean":
            return None
        taken = {argument: tensors.get(source) for argument, (source, _) in self._arguments.items()}
        # Of tensors by layer any tells the number of samples.
        taken = {
            name: next(iter(value.values()), None) if isinstance(value, Mapping) else value
            for name, value in taken.items()
        }
        return self.loss.denominator(**{name: value for name, value in taken.items() if isinstance(value, Tensor)})

    def weight_at(self, progress: float | None) -> float:
        """The weight at this fraction of training."""
        if not callable(self.weight):
            return self.weight
        if progress is None:
            raise ValueError(
                f"Term: the weight of {name_of(self.loss)} follows a schedule, but the step gave no "
                "'progress'; set max_epochs or max_steps, or give a number as weight."
            )
        return self.weight(float(progress))

    def forward(self, tensors: Mapping[str, Any]) -> Tensor:
        """Evaluate the loss, unweighted, on the tensors that it takes."""
        return self.loss(
            **{argument: tensors[source] for argument, (source, _) in self._arguments.items() if source in tensors}
        )

    def extra_repr(self) -> str:
        """The weight."""
        return f"weight={self.weight}"


def name_of(loss: Callable[..., Any]) -> str:
    """What errors call a loss: the name of its class or function."""
    return type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", repr(loss))
