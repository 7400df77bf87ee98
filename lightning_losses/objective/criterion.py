"""An objective that is called as a loss of torch."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.objective.objective import Objective, ObjectiveValue


class Criterion(nn.Module):
    """An objective as a loss of torch: ``criterion(logits, target)`` is its total, a scalar.

    Args:
        objective: what is evaluated, or the terms of one.

    Raises:
        ValueError: no terms; when called, a term that needs more than the tensors that are given.

    Example:
        >>> import torch
        >>> from lightning_losses.losses import CrossEntropy, Focal
        >>> from lightning_losses.objective import Term
        >>> criterion = Criterion({"ce": Term(CrossEntropy(), 0.5), "focal": Term(Focal(gamma=0.0), 0.5)})
        >>> round(criterion(torch.zeros(2, 3), torch.tensor([0, 1])).item(), 4)  # log 3
        1.0986
    """

    def __init__(self, objective: Objective | Mapping[str, nn.Module | Callable[..., Tensor]]) -> None:
        super().__init__()
        self.objective = objective if isinstance(objective, Objective) else Objective(objective)

    def forward(self, logits: Tensor, target: Tensor, **tensors: Any) -> Float[Tensor, ""]:
        """The weighted sum of the terms.

        Args:
            logits: [..., C], with the classes last.
            target: [...] class indices, or [..., C] probabilities.
            **tensors: what terms take besides, under glossary names.
        """
        value: ObjectiveValue = self.objective(logits, target, **tensors)
        return value.total
