"""Which targets are ignored: one rule for losses, metrics, callbacks and mixins."""

import inspect
from typing import Any

from torch import nn

from lightning_losses.losses.base import Loss
from lightning_losses.objective.objective import Objective
from lightning_losses.objective.term import Term

_LABELS = {"target", "multi_hot"}
_OF_TORCH = (nn.CrossEntropyLoss, nn.NLLLoss)


def ignored_targets(module: nn.Module, ignore_index: int | None = None) -> tuple[int, ...]:
    """The ignored targets of a module, for `labelled_rows`.

    They are, in this order: the one that is given; the module's own `ignore_index`; those of the losses that take the
    samples' `target` or `multi_hot`, in its `objective` or, without one, anywhere in it; -100 where none of them says.

    Args:
        module: a LightningModule, or an `Objective`.
        ignore_index: what the caller was told; None where it was told nothing.

    Example:
        >>> from lightning_losses import CrossEntropy
        >>> ignored_targets(Objective({"ce": CrossEntropy(ignore_index=255)}))
        (255,)
    """
    own = getattr(module, "ignore_index", None) if ignore_index is None else ignore_index
    if isinstance(own, int):
        return (own,)
    objective = getattr(module, "objective", module)
    if isinstance(objective, Objective):
        terms = [term for term in objective.terms.values() if isinstance(term, Term) and term.needs.keys() & _LABELS]
        losses = [term.loss for term in terms]
    else:
        losses = [part for part in module.modules() if isinstance(part, (Loss, *_OF_TORCH))]
    return tuple(sorted({index for loss in losses if (index := _told(loss)) is not None})) or (-100,)


def _told(loss: Any) -> int | None:
    """What a loss ignores, or the one that it wraps; of a function what its argument `ignore_index` is."""
    if isinstance(loss, nn.Module):
        indices = [getattr(part, "ignore_index", None) for part in loss.modules()]
    else:
        argument = inspect.signature(loss).parameters.get("ignore_index")
        indices = [] if argument is None else [argument.default]
    return next((index for index in indices if isinstance(index, int)), None)
