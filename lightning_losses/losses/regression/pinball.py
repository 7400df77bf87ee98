"""Pinball loss: quantiles of a number are learned, each with its own costs of being too low and too high."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import RegressionLoss
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.regression import regression_values


class Pinball(RegressionLoss):
    """Pinball loss: quantiles of a number are learned, each with its own costs of being too low and too high.

    ``sum_τ max(τ e_τ, (τ - 1) e_τ)`` with ``e_τ = y - q_τ``, over the levels τ. The τ-quantile minimises its mean. At
    e = 0 the slope by q is ``1 - τ``, that of a quantile which is too high. Nothing keeps quantiles from crossing: sort
    them where they are used, as `CQR` does.

    Args:
        levels: the τ, each between 0 and 1 and above the one before it; quantile q of the last dimension is of level q.
        quantile_reduction: "sum" over the levels, or their "mean".

    Shapes:
        quantiles: [..., Q] with Q the number of levels; regression_target: [...].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; another number of quantiles than of levels; levels out of order or
            range.

    Source:
        Koenker, Bassett, 1978, "Regression Quantiles", Econometrica 46. The code of ml-stat-Sustech/TorchCP sums over
        the levels; its documentation asks for a target [N, 1], which broadcasts there to another loss, and is an error
        here.

    Example:
        >>> import torch
        >>> loss = Pinball(levels=(0.1, 0.5, 0.9))
        >>> round(loss(torch.zeros(1, 3), torch.ones(1)).item(), 4)  # 0.1 + 0.5 + 0.9
        1.5
    """

    status = "paper"
    evidence = "ml-stat-Sustech/TorchCP, not the authors' code"

    levels: Sequence[float] = (0.05, 0.5, 0.95)
    quantile_reduction: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.levels = check_levels(self._identifier, self.levels)

    def forward(
        self, quantiles: Float[Tensor, "*values levels"], regression_target: Float[Tensor, "*values"]
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; the class documents what."""
        target, quantiles = regression_values(self._identifier, regression_target, last="Q", quantiles=quantiles)
        if quantiles.shape[-1] != len(self.levels):
            raise ValueError(
                f"{self._identifier}: {quantiles.shape[-1]} quantiles of each number came with {len(self.levels)} "
                "levels; give one quantile for each level."
            )
        errors = (target.unsqueeze(-1) - quantiles).unbind(dim=-1)
        prices = torch.stack(
            [
                torch.where(error > 0, level * error, (level - 1) * error)
                for level, error in zip(self.levels, errors, strict=True)
            ]
        )
        return reduce(prices.sum(dim=0) if self.quantile_reduction == "sum" else prices.mean(dim=0), self.reduction)


def check_levels(who: str, levels: Sequence[float]) -> tuple[float, ...]:
    """The levels as a tuple; raises ``ValueError`` unless they rise from above 0 to below 1."""
    rising = tuple(levels) if isinstance(levels, Sequence) and not isinstance(levels, str) else ()
    numbers = all(isinstance(level, int | float) and not isinstance(level, bool) for level in rising)
    ends = (0, *rising, 1)
    if not rising or not numbers or not all(low < high for low, high in itertools.pairwise(ends)):
        raise ValueError(
            f"{who}: levels={levels!r} came; give rising numbers between 0 and 1, such as (0.05, 0.5, 0.95)."
        )
    return rising
