"""Losses from aggregate responses: only the mean response of each bag of samples is known."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.groups import group_slots, group_total
from lightning_losses.numerics.regression import regression_values
from lightning_losses.numerics.settings import Share


class AggregateLoss(Loss):
    """Losses from aggregate responses: only the mean response of each bag of samples is known.

    ``(1 - ρ) mean_b (ȳ_b - mean_b f)² + ρ mean_b mean_{i in b} (ȳ_b - f_i)²``. ρ = 0 is the loss of bags, which
    compares the means alone. ρ = 1 is the loss of instances, which pulls every prediction to the bag's mean response:
    the loss of bags plus the variance of f within them. Every bag weighs the same, whatever its size.

    Samples with the same number in `spans` are a bag, across processes too. ȳ is the mean of the bag's
    `regression_target`: the target of a sample may be its bag's mean response, or its own response.

    Args:
        rho: ρ, in [0, 1].

    Shapes:
        mean: [...] the predictions f; regression_target: [...]; spans: [...] int64, -1 for samples of no bag.

    Returns:
        A scalar; 0 without a bag.

    Raises:
        ValueError: shapes or dtypes that do not fit; ρ out of range.

    Source:
        Javanmard, Chen, Mirrokni, Badanidiyuru, Fu, 2024, "Learning from Aggregate responses: Instance Level versus Bag
        Level Loss Functions", arXiv:2401.11081.

    Example:
        >>> spans, response = torch.tensor([0, 0]), torch.tensor([1.0, 1.0])
        >>> [AggregateLoss(rho)(torch.tensor([0.0, 4.0]), response, spans).item() for rho in (0.0, 0.5, 1.0)]
        [1.0, 3.0, 5.0]
    """

    batch_coupled = True
    status = "paper"
    evidence = "an evaluation of the paper's formula in numpy"

    rho: Share = 0.5

    def forward(
        self,
        mean: Float[Tensor, "*samples"],
        regression_target: Float[Tensor, "*samples"],
        spans: Int[Tensor, "*samples"],
    ) -> Float[Tensor, ""]:
        """Check and evaluate; the class documents what."""
        target, predicted = regression_values(self._identifier, regression_target, mean=mean)
        if not isinstance(spans, Tensor) or spans.dtype != torch.int64 or spans.shape != target.shape:
            came = f"{spans.dtype} {list(spans.shape)}" if isinstance(spans, Tensor) else f"a {type(spans).__name__}"
            raise ValueError(
                f"{self._identifier}: spans ({came}) came with regression_target of shape {list(target.shape)}; give "
                "the int64 number of each sample's bag."
            )
        bag = spans.flatten()
        inside = bag >= 0
        target, predicted = (values.flatten().masked_fill(~inside, 0.0) for values in (target, predicted))
        with torch.autocast(target.device.type, enabled=False):
            # No number of bags is read, for which a device would have to be waited: every sample has its bag's means.
            slots = group_slots(self._identifier, len(bag), None, bag, bag.device)
            size, *totals = (group_total(values.to(predicted), slots) for values in (inside, target, predicted))
            size = size.clamp(min=1)
            response, of_bag = (total / size for total in totals)
            share = inside.to(predicted) / size
            rows = (1 - self.rho) * (response - of_bag) ** 2 + self.rho * (response - predicted) ** 2
            return (share * rows).sum() / share.sum().clamp(min=1)
